"""Average precision of detections: hand-worked cases, pycocotools itself, and workers."""

import threading

import numpy as np
import pytest
from plain_boxes import plain_iou, random_boxes

from data.common.errors import UserError
from models.distributed.base import SingleProcess
from models.metrics import detection
from models.metrics.counts import UndefinedError
from models.metrics.detection import (
    FALSE,
    IGNORED,
    TRUE,
    DetectionEvaluator,
    average_precisions,
    match,
)

NONE = np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)
SQUARE = [0.0, 0.0, 10.0, 10.0]


def detections(*found):
    """Of (box, score, class)."""
    box, score, cls = zip(*found, strict=True)
    return np.float32(box), np.float32(score), np.int32(cls)


def moved(y: float) -> list[float]:
    """A square of 10 pixels, y pixels lower; its IoU with SQUARE is (10 - y) / (10 + y)."""
    return [y, 0.0, y + 10, 10.0]


def test_match_takes_an_object_once_and_its_best_detection_first():
    found = np.array([moved(1), moved(0), moved(4), moved(40)])
    assert match(found, np.array([SQUARE]), np.array([False])).tolist() == [TRUE] + [FALSE] * 3


def test_match_at_the_threshold_counts():
    found, others = np.array([[0, 0, 10, 5]]), np.array([SQUARE])
    assert match(found, others, np.array([False])).tolist() == [TRUE]
    assert match(found, others, np.array([False]), 0.51).tolist() == [FALSE]


def test_match_ignores_what_finds_a_difficult_object():
    found = np.array([moved(0), moved(1), moved(100), moved(200)])
    objects = np.array([SQUARE, moved(100)])
    got = match(found, objects, np.array([True, False])).tolist()
    assert got == [IGNORED, IGNORED, TRUE, FALSE]


def test_match_does_not_turn_to_the_second_nearest():
    """VOC's kit: a detection nearest to a taken object is wrong, even if it overlaps another."""
    objects = np.array([SQUARE, moved(3)])
    found = np.array([SQUARE, moved(1)])
    assert plain_iou(found[1], objects[1]) > 0.5
    assert match(found, objects, np.zeros(2, bool)).tolist() == [TRUE, FALSE]


@pytest.mark.parametrize(
    ("results", "objects", "voc07", "voc"),
    [
        ([TRUE, TRUE], 2, 1, 1),
        ([], 3, 0, 0),
        ([FALSE, FALSE], 3, 0, 0),
        # Recall 1/2 with precision 1: the recalls 0 to 0.5 of 0 to 1.
        ([TRUE], 2, 6 / 11, 1 / 2),
        # Precision 1 up to 1/3, 2/3 up to 2/3, then nothing: 4 and 3 of the recalls.
        ([TRUE, FALSE, TRUE, IGNORED], 3, (4 + 3 * 2 / 3) / 11, 1 / 3 + 2 / 9),
        # The best precision at a recall or beyond: 2/3 everywhere.
        ([FALSE, TRUE, TRUE], 2, 2 / 3, 2 / 3),
        ([IGNORED, TRUE, IGNORED], 1, 1, 1),
        # 3 of 10 reach the recall 0.3, whatever 3 * 0.1 is.
        ([TRUE] * 3, 10, 4 / 11, 3 / 10),
    ],
)
def test_average_precisions(results, objects, voc07, voc):
    got = average_precisions(np.array(results, int), objects)
    np.testing.assert_allclose(got, (voc07, voc), rtol=1e-12)


def test_average_precision_without_objects_is_not_a_number():
    assert np.isnan(average_precisions(np.array([FALSE]), 0)).all()


def test_means_are_over_classes_with_objects():
    evaluator = DetectionEvaluator(4)
    found = detections((SQUARE, 0.9, 0), (moved(50), 0.8, 1), (SQUARE, 0.7, 2), (SQUARE, 0, -1))
    evaluator.update("a", found, [SQUARE, moved(50), SQUARE], [0, 1, 1])
    evaluator.update("b", NONE, [SQUARE], [3], [True])
    evaluator.update("c", NONE, np.zeros((0, 4)), [])
    measures = evaluator.measure()
    np.testing.assert_allclose(measures.voc, [1, 0.5, np.nan, np.nan])
    np.testing.assert_allclose(measures.voc07, [1, 6 / 11, np.nan, np.nan])
    assert measures.objects.tolist() == [1, 2, 0, 0]
    assert (measures.images, measures.detections, measures.coco) == (3, 3, {})
    assert evaluator.result() == pytest.approx({"voc07_ap": 17 / 22, "voc_ap": 0.75})


def test_ties_are_in_the_order_of_names_and_then_as_given():
    """All scores alike: images b, then a, were added; the right detection is in a."""
    for names, wanted in ((("b", "a"), 1), (("a", "b"), 0.5)):
        evaluator = DetectionEvaluator(1)
        evaluator.update(names[0], detections((moved(50), 0.5, 0)), np.zeros((0, 4)), [])
        evaluator.update(names[1], detections((SQUARE, 0.5, 0)), [SQUARE], [0])
        assert evaluator.result()["voc_ap"] == pytest.approx(wanted)


def scenes(count: int = 40, classes: int = 5):
    """Images with objects and detections: some near an object, some anywhere, with tied scores."""
    draw = np.random.RandomState(3)
    for number in range(count):
        boxes = random_boxes(number, draw.randint(0, 6))
        cls = draw.randint(0, classes - 1, len(boxes))  # the last class has no object
        near = boxes + draw.normal(0, 12, boxes.shape).astype(np.float32)
        found = np.concatenate([near, near[:2] + 3, random_boxes(100 + number, 5)])
        found_cls = np.concatenate([cls, cls[:2], draw.randint(0, classes, 5)])
        score = draw.randint(0, 20, len(found)) / 20
        order = np.argsort(-score, kind="stable")
        yield (
            f"image {number:02}",
            (found[order], score[order], found_cls[order]),
            boxes,
            cls,
            draw.rand(len(boxes)) < 0.2,
        )


def voc_by_hand(cls: int) -> float:
    """VOC's all-point AP of the scenes, straight from its definition."""
    rows, objects = [], 0
    for name, (boxes, scores, classes), truth, truth_classes, difficult in scenes():
        own = np.flatnonzero(truth_classes == cls)
        objects += (~difficult[own]).sum()
        taken = set()
        for place in np.flatnonzero(classes == cls):
            overlaps = [plain_iou(boxes[place], truth[i]) for i in own]
            best = int(np.argmax(overlaps)) if overlaps else -1
            if best < 0 or overlaps[best] < 0.5:
                rows.append((-scores[place], name, 0))
            elif not difficult[own[best]]:
                rows.append((-scores[place], name, int(best not in taken)))
                taken.add(best)
    hits = [hit for *_, hit in sorted(rows, key=lambda row: row[:2])]
    precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
    return sum(max(precisions[i:]) for i, hit in enumerate(hits) if hit) / objects


def evaluated(images, coco=False, workers=None):
    evaluator = DetectionEvaluator(5, workers, coco)
    for image in images:
        evaluator.update(*image)
    return evaluator


def test_against_the_definition():
    measures = evaluated(scenes()).measure()
    np.testing.assert_allclose(measures.voc[:4], [voc_by_hand(cls) for cls in range(4)], rtol=1e-6)
    assert np.isnan(measures.voc[4])
    assert 0.1 < np.nanmean(measures.voc) < 0.9


class Joined(SingleProcess):
    """One of several workers that are threads of this process."""

    size = 3

    def __init__(self, rank: int, barrier: threading.Barrier, shared: dict) -> None:
        self.rank, self._barrier, self._shared = rank, barrier, shared

    def sum(self, array: np.ndarray) -> np.ndarray:
        self._shared[self.rank] = np.asarray(array)
        self._barrier.wait()
        total = sum(self._shared[rank] for rank in range(self.size))
        self._barrier.wait()
        return total


def test_workers_get_what_one_process_gets():
    barrier, shared, results = threading.Barrier(3), {}, {}

    def work(rank: int) -> None:
        images = list(scenes())[rank::3]
        results[rank] = evaluated(images, workers=Joined(rank, barrier, shared)).measure()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = evaluated(scenes()).measure()
    for rank in range(3):
        for got, wanted in zip(results[rank], alone, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_coco_by_hand():
    """IoU 0.82 and 0.6: right at 7 and at 3 of the ten thresholds."""
    pytest.importorskip("pycocotools")
    evaluator = DetectionEvaluator(3, coco=True)
    evaluator.update("a", detections((moved(1), 0.9, 0)), [SQUARE], [0])
    evaluator.update("b", detections((moved(2.5), 0.8, 1), (SQUARE, 1, 2)), [SQUARE], [1])
    result = evaluator.result()
    wanted = {"coco_ap": (0.7 + 0.3) / 2, "coco_ap50": 1, "coco_ap75": 0.5}
    assert {name: result[name] for name in wanted} == pytest.approx(wanted)


def test_coco_is_what_pycocotools_says():
    """Its own way through files: `loadRes` and `summarize`."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    truth, rows = coco.COCO(), []
    images, annotations = [], []
    for number, (_, (boxes, scores, classes), objects, cls, difficult) in enumerate(scenes()):
        images.append({"id": number, "file_name": str(number)})
        for (y1, x1, y2, x2), c, crowd in zip(objects.tolist(), cls, difficult, strict=True):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            place = {"image_id": number, "category_id": int(c), "id": len(annotations) + 1}
            annotations.append({**box, **place, "iscrowd": int(crowd)})
        for (y1, x1, y2, x2), score, c in zip(boxes.tolist(), scores, classes, strict=True):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(np.float32(score))}
            rows.append({**box, "image_id": number, "category_id": int(c)})
    truth.dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c, "name": str(c)} for c in range(5)],
        "info": {},
    }
    truth.createIndex()
    run = cocoeval.COCOeval(truth, truth.loadRes(rows), "bbox")
    for step in (run.evaluate, run.accumulate, run.summarize):
        step()
    result = evaluated(scenes(), coco=True).result()
    got = [result[name] for name in ("coco_ap", "coco_ap50", "coco_ap75")]
    np.testing.assert_allclose(got, run.stats[:3], rtol=1e-9)


def test_coco_without_its_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.coco", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[coco\]'"):
        DetectionEvaluator(3, coco=True)


def test_no_detections_at_all():
    evaluator = DetectionEvaluator(2)
    evaluator.update("a", NONE, [SQUARE], [1])
    assert evaluator.result() == {"voc07_ap": 0, "voc_ap": 0}


def test_no_object_that_counts():
    evaluator = DetectionEvaluator(2)
    with pytest.raises(UndefinedError):
        evaluator.measure()
    evaluator.update("a", detections((SQUARE, 1, 0)), [SQUARE], [0], [True])
    with pytest.raises(UndefinedError, match="not difficult"):
        evaluator.measure()


@pytest.mark.parametrize(
    ("found", "boxes", "classes", "message"),
    [
        (NONE, [SQUARE], [2], "class 2, but classes are 0 to 1"),
        (NONE, [SQUARE], [-1], "class -1"),
        (NONE, [SQUARE[:3]], [0], "shapes"),
        (NONE, [SQUARE], [0, 1], "shapes"),
        (NONE, [[0, 0, np.nan, 1]], [0], "NaN"),
        (detections((SQUARE, np.inf, 0)), [SQUARE], [0], "NaN or infinity"),
        (detections((SQUARE, 1, 7)), [SQUARE], [0], "class 7"),
    ],
)
def test_bad_input(found, boxes, classes, message):
    with pytest.raises(UserError, match=f"^cat.jpg: .*{message}"):
        DetectionEvaluator(2).update("cat.jpg", found, np.array(boxes), np.array(classes))


def test_an_image_twice():
    evaluator = DetectionEvaluator(2)
    for _ in range(2):
        evaluator.update("cat.jpg", NONE, [SQUARE], [0])
    with pytest.raises(UserError, match=r"^cat\.jpg: .*twice"):
        evaluator.measure()


def test_iou_is_that_of_plain_boxes():
    boxes = random_boxes(1, 20).astype(float)
    got = detection.iou(boxes[0], boxes)
    np.testing.assert_allclose(got, [plain_iou(boxes[0], box) for box in boxes], rtol=1e-12)
