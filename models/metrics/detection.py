"""Average precision of detections: VOC's in two forms, and COCO's.

Detections are matched to objects image by image, so images can be spread over workers.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from data.common.errors import UserError
from models.distributed.base import Distributed, SingleProcess
from models.metrics.accumulators import gather, gather_rows
from models.metrics.counts import UndefinedError, ratio

VOC_IOU = 0.5
FALSE, TRUE, IGNORED = 0, 1, 2
"""A detection matches no object, an object, or a difficult object, which is not counted."""


class Found(NamedTuple):
    """Boxes in images: image [N] and cls [N] int64, box float32 [N, 4], extra float32 [N].

    `extra` is the score of a detection; for an object it is 1 if difficult, else 0.
    """

    image: np.ndarray
    cls: np.ndarray
    box: np.ndarray
    extra: np.ndarray

    def where(self, mask: np.ndarray) -> Found:
        """Those that `mask` selects; indices also set their order."""
        return Found(*(values[mask] for values in self))


class DetectionMeasures(NamedTuple):
    """All measurements; NaN where a class has no object that counts.

    voc07, voc: float64 [C], AP of each class. objects: int64 [C], difficult ones not counted.
    images, detections: how many. coco: AP by name, empty if not asked for.
    """

    voc07: np.ndarray
    voc: np.ndarray
    objects: np.ndarray
    images: int
    detections: int
    coco: dict[str, float]

    def metrics(self) -> dict[str, float]:
        """`voc07_ap` and `voc_ap`, means over classes with objects, and COCO's if asked for."""
        means = {"voc07_ap": np.nanmean(self.voc07), "voc_ap": np.nanmean(self.voc)}
        return {name: float(value) for name, value in means.items()} | self.coco

    def by_class(self) -> dict[str, np.ndarray]:
        """Columns [C] of the table of classes, by name."""
        return {"objects": self.objects, "voc07_ap": self.voc07, "voc_ap": self.voc}


def iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union [N] of a box [4] and others [N, 4], (y1, x1, y2, x2)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.maximum(sides, 0).prod(axis=1)
    area = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1)
    return ratio(common, area - common)


def match(
    boxes: np.ndarray, objects: np.ndarray, difficult: np.ndarray, min_iou: float = VOC_IOU
) -> np.ndarray:
    """Matches the detections of a class in an image to objects: FALSE, TRUE or IGNORED, [D].

    As in VOC's development kit, a detection is compared with the object that it overlaps most. If
    their IoU is at least `min_iou`, it is ignored if that object is difficult, and true if no
    better detection was matched to it. Otherwise it is false.

    Args:
      boxes: float [D, 4], the detections, best score first.
      objects: float [N, 4].
      difficult: bool [N].
    """
    result, taken = np.full(len(boxes), FALSE), np.zeros(len(objects), bool)
    if len(objects):
        for place, box in enumerate(boxes.astype(np.float64)):
            overlaps = iou(box, objects.astype(np.float64))
            nearest = overlaps.argmax()
            if overlaps[nearest] >= min_iou:
                if difficult[nearest]:
                    result[place] = IGNORED
                elif not taken[nearest]:
                    result[place], taken[nearest] = TRUE, True
    return result


def average_precisions(results: np.ndarray, objects: int) -> tuple[float, float]:
    """AP by the rules of VOC 2007 and of VOC from 2010 on; both NaN if there are no objects.

    Precision at a recall is the best at this recall or a higher one. VOC 2007: its mean at the
    recalls 0, 0.1, ..., 1. From 2010 on: its integral over recall.

    Args:
      results: [D], from `match`, over all images, best score first.
      objects: number of objects that are not difficult.
    """
    if not objects:
        return np.nan, np.nan
    counted = results[results != IGNORED]
    true = np.cumsum(counted == TRUE)
    recall, precision = true / objects, true / np.arange(1, len(counted) + 1)
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    # In integers, because a float such as 3 / 10 may exceed the tenth it is compared with.
    places = np.searchsorted(true * 10, np.arange(11) * objects)
    return float(best[places].mean()), float(np.diff(recall, prepend=0.0) @ best[:-1])


class DetectionEvaluator:
    """Average precision of detections of C classes, the same for any number of workers.

    Detections with equal scores are ordered by image name, and within an image as given. Detecting
    a difficult object counts neither for nor against: VOC's AP leaves such detections out, COCO's
    treats these objects as crowds.

    Args:
      class_num: C.
      workers: the processes that share the images; each one evaluates its own.
      coco: measure COCO's AP, too.

    Raises:
      UserError: `coco` without pycocotools.
    """

    def __init__(
        self, class_num: int, workers: Distributed | None = None, coco: bool = False
    ) -> None:
        self.class_num, self.workers = class_num, workers or SingleProcess()
        self._coco = _pycocotools() if coco else None
        self._names: list[str] = []
        self._detections: list[Found] = []
        self._objects: list[Found] = []

    def update(
        self,
        name: str,
        detections: tuple[np.ndarray, np.ndarray, np.ndarray],
        boxes: np.ndarray,
        classes: np.ndarray,
        difficult: np.ndarray | None = None,
    ) -> None:
        """Adds an image.

        Args:
          name: of the image; must be unique.
          detections: boxes [D, 4], scores [D] and classes [D]; a class below 0 is padding.
          boxes, classes, difficult: the objects: [N, 4], [N] and bool [N].

        Raises:
          UserError: wrong shapes, numbers that are not finite, classes out of range.
        """
        found, scores, found_classes = map(np.asarray, detections)
        if difficult is None:
            difficult = np.zeros(len(classes), bool)
        detected = self._checked(name, "detections", found, found_classes, scores)
        self._detections.append(detected.where(detected.cls >= 0))
        objects = self._checked(name, "objects", boxes, classes, difficult)
        if (objects.cls < 0).any():
            raise UserError(f"{name}: an object has class {objects.cls.min()}")
        self._objects.append(objects)
        self._names.append(name)

    def measure(self) -> DetectionMeasures:
        """Measures all images of all workers; every worker calls this and gets the same result.

        Raises:
          UndefinedError: there is no object that counts.
          UserError: an image was evaluated twice.
        """
        names = [name for (name,) in gather_rows([(name,) for name in self._names], self.workers)]
        twice = next((a for a, b in itertools.pairwise(names) if a == b), None)
        if twice is not None:
            raise UserError(f"{twice}: evaluated twice, by name")
        number = {name: place for place, name in enumerate(names)}
        own = np.array([number[name] for name in self._names], np.int64)
        detections, objects = (
            _gather(own, found, self.workers) for found in (self._detections, self._objects)
        )
        # By score; among ties by image, then as given.
        detections = detections.where(np.argsort(-detections.extra, kind="stable"))
        counts = np.bincount(objects.cls[objects.extra == 0], minlength=self.class_num)
        if not counts.any():
            raise UndefinedError("there is no object that is not difficult")
        results = _match_all(detections, objects)
        aps = np.array(
            [
                average_precisions(results[detections.cls == cls], count)
                for cls, count in enumerate(counts)
            ]
        )
        coco = coco_metrics(self._coco, detections, objects, len(names)) if self._coco else {}
        voc07, voc = aps.T
        return DetectionMeasures(voc07, voc, counts, len(names), len(detections.cls), coco)

    def result(self) -> dict[str, float]:
        """The metrics of `measure`, by name."""
        return self.measure().metrics()

    def _checked(
        self, name: str, what: str, box: np.ndarray, cls: np.ndarray, extra: np.ndarray
    ) -> Found:
        box, extra = np.asarray(box, np.float32), np.asarray(extra, np.float32)
        cls = np.asarray(cls).astype(np.int64)
        if box.shape != (len(cls), 4) or extra.shape != cls.shape or cls.ndim != 1:
            shapes = ", ".join(str(list(values.shape)) for values in (box, extra, cls))
            raise UserError(f"{name}: the {what} have shapes {shapes}")
        if not (np.isfinite(box).all() and np.isfinite(extra).all()):
            raise UserError(f"{name}: the {what} hold NaN or infinity")
        if len(cls) and cls.max() >= self.class_num:
            last = self.class_num - 1
            raise UserError(f"{name}: {what} have class {cls.max()}, but classes are 0 to {last}")
        return Found(np.full(len(cls), len(self._names)), cls, box, extra)


def _gather(own: np.ndarray, parts: Sequence[Found], workers: Distributed) -> Found:
    """The boxes of all workers' images, by image; `own` [images]: numbers of this one's images."""
    empty = Found(*(np.zeros(shape) for shape in (0, 0, (0, 4), 0)))
    image, cls, box, extra = (np.concatenate(arrays) for arrays in zip(empty, *parts, strict=True))
    image = own[image.astype(np.int64)]
    image, cls = (gather(values.astype(np.int64), workers) for values in (image, cls))
    # Horovod: `gather` joins integers, so the bits of floats are passed as such.
    bits = np.column_stack([box, extra]).astype(np.float32).view(np.int32).ravel()
    numbers = gather(bits.astype(np.int64), workers).astype(np.int32).view(np.float32)
    box, extra = np.split(numbers.reshape(-1, 5), [4], axis=1)
    return Found(image, cls, box, extra[:, 0]).where(np.argsort(image, kind="stable"))


def _match_all(detections: Found, objects: Found) -> np.ndarray:
    """Runs `match` on each class in each image; results in the order of the detections."""
    results = np.full(len(detections.cls), FALSE)
    classes = 1 + max(detections.cls.max(initial=0), objects.cls.max(initial=0))
    if not len(results):
        return results
    keys, object_keys = (found.image * classes + found.cls for found in (detections, objects))
    order, object_order = (np.argsort(values, kind="stable") for values in (keys, object_keys))
    groups, starts = np.unique(keys[order], return_index=True)
    first, last = (
        np.searchsorted(object_keys[object_order], groups, side) for side in ("left", "right")
    )
    for places, start, stop in zip(np.split(order, starts[1:]), first, last, strict=True):
        own = objects.where(object_order[start:stop])
        results[places] = match(detections.box[places], own.box, own.extra > 0)
    return results


def coco_metrics(
    tools: ModuleType, detections: Found, objects: Found, images: int
) -> dict[str, float]:
    """COCO's AP at IoU 0.5 to 0.95, at 0.5 and at 0.75, for the 100 best detections per image."""
    coco, evaluation = tools.coco.COCO, tools.cocoeval.COCOeval
    truth, found = coco(), coco()
    classes = np.unique(np.concatenate([objects.cls, detections.cls])).tolist()
    for data, boxes in ((truth, objects), (found, detections)):
        data.dataset = {
            "images": [{"id": image} for image in range(images)],
            "categories": [{"id": cls} for cls in classes],
            "annotations": [_annotation(number, boxes) for number in range(len(boxes.cls))],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            data.createIndex()
    run = evaluation(truth, found, "bbox")
    with contextlib.redirect_stdout(io.StringIO()):
        run.evaluate()
        run.accumulate()
    # [IoU, recall, class, area of the objects: all, detections per image: 100]
    precision = run.eval["precision"][..., 0, 2]
    precision = np.where(precision < 0, np.nan, precision)  # -1: a class without objects
    at = {"coco_ap": slice(None), "coco_ap50": slice(0, 1), "coco_ap75": slice(5, 6)}
    return {name: float(np.nanmean(precision[levels])) for name, levels in at.items()}


def _annotation(number: int, boxes: Found) -> dict[str, Any]:
    y1, x1, y2, x2 = boxes.box[number].astype(np.float64).tolist()
    return {
        "id": number + 1,  # 0 would count as not found
        "image_id": int(boxes.image[number]),
        "category_id": int(boxes.cls[number]),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "score": float(boxes.extra[number]),
        "iscrowd": int(boxes.extra[number] > 0),
    }


def _pycocotools() -> ModuleType:
    try:
        import pycocotools.coco
        import pycocotools.cocoeval
    except ImportError as error:
        raise UserError(f"COCO's metrics: {error}: pip install -e '.[coco]'") from error
    return pycocotools
