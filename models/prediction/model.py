"""A checkpoint as a Python object, for programs and notebooks:

    from models.prediction.model import Model

    model = Model.load("out/checkpoint")
    for prediction in model.predict(["cat.jpg", "photos/"]):
        print(prediction.image, [(label.name, label.probability) for label in prediction.labels])

docs/api.md has more. The scripts do the same for millions of images: resumable, on many machines.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from data.common import (
    mirror,
    start_tensorflow,  # noqa: F401 - before anything that imports TensorFlow
)
from data.common.errors import UserError
from data.input import image_batches, image_source
from data.input.evaluation import EvaluationImages
from data.input.image_batches import Preparation
from data.lists.classes import Classes
from data.outputs.evaluation_report import Evaluation
from data.outputs.predictions import LabelSelector, Prediction
from models.checkpoints import metadata
from models.prediction import evaluation, image_job, inference
from models.prediction.evaluation import EvaluationOptions
from models.prediction.image_job import SCORES
from models.prediction.inference import Loaded, NetworkOptions, Predictor

ImageLike: TypeAlias = str | Path | bytes | np.ndarray | Image.Image
"""A file, folder, glob, list or TFRecord; encoded bytes; pixels uint8 [H, W, 3]; a PIL image."""

MAX_UNREADABLE = 100


class _InMemory(NamedTuple):
    """An image that is not in a file, with the interface of `SourceImage`."""

    name: str
    label: str
    data: bytes

    def load(self) -> image_source.Loaded:
        return image_source.Loaded(*self)


class Model:
    """A network with its weights and its classes.

    Attributes:
      classes: names and hierarchy of the classes.
      label_mode: "multi" if an image has several labels (each with a probability of its own),
        "single" if the probabilities of an image add up to 1.
      network: `models.resnet.ResNet` or another backbone: images float32 [B, S, S, 3] in [-1, 1] ->
        `features` [B, D], and those -> `logits` [B, C].
      image_size: S.
    """

    def __init__(
        self, loaded: Loaded, classes: Classes, label_mode: str, probabilities: str = "raw"
    ) -> None:
        if label_mode not in SCORES:
            raise UserError(f"label_mode is {label_mode!r}: use one of {', '.join(SCORES)}")
        self._loaded, self.classes, self.label_mode = loaded, classes, label_mode
        self.network, self.image_size = loaded.network, loaded.image_size
        self._probabilities = probabilities
        scores = probabilities, SCORES[label_mode], loaded.use_ema
        calibration = metadata.calibration_of(loaded.prefix, *scores)
        self._score = calibration.score
        # Each traces a graph when it is made.
        self._preparation = functools.cache(functools.partial(Preparation, self.image_size))
        predictor = functools.partial(Predictor, self.network, calibration=calibration)
        self._predictor = functools.cache(predictor)

    @classmethod
    def load(
        cls,
        path: str | Path,
        dictionary: str | Path | None = None,
        label_mode: str | None = None,
        probabilities: str = "raw",
        **options: Any,
    ) -> Model:
        """The network of a checkpoint.

        Args:
          path: a checkpoint's prefix or one of its files, or a folder, for the latest one in it;
            it may be a URL, and so may the dictionary.
          dictionary: class names or hierarchy; None: those of the checkpoint.
          label_mode: None: as the checkpoint was trained; "single" if it does not say.
          probabilities: "raw", "corrected" or "calibrated" (docs/metrics.md).
          options: of `NetworkOptions`, such as `precision="bfloat16"` or `use_ema=True`.

        Raises:
          CheckpointError: it is missing or damaged, or of another network.
          UserError: the dictionary cannot be read, or has another number of classes.
        """
        local = mirror.open_input("path", str(path))
        given = dictionary and mirror.open_input("dictionary", str(dictionary))
        try:
            loaded = inference.load(local, NetworkOptions(**options))
            classes = metadata.classes_of(loaded.prefix, loaded.network.class_num, given)
        except UserError as error:
            raise type(error)(mirror.shown(str(error))) from error
        kept = image_job.label_mode(loaded.prefix).get("label_mode", "single")
        return cls(loaded, classes, label_mode or kept, probabilities)

    def predict(
        self,
        images: Sequence[ImageLike],
        top_k: int = 5,
        threshold: float = 0.0,
        show: str = "all",
        **how: Any,
    ) -> list[Prediction]:
        """The best labels of each image, in order; an unreadable one has its `problem` instead.

        Args:
          top_k: largest number of labels per image.
          threshold: minimum probability of a label.
          show: "all"; "specific": no label above another one in the hierarchy; "path": names from
            the root down.
          how: see `probabilities`.
        """
        thresholds = np.full(len(self.classes.names), threshold, np.float32)
        names, hierarchy = self.classes.names, self.classes.hierarchy
        selector = LabelSelector(names, top_k, thresholds, show, hierarchy)
        predictions = []
        for batch, scores in self._run(self._score, images, **how):
            for image, row in zip(batch.images, scores, strict=True):
                labels = () if image.problem else selector.choose(row)
                predictions.append(Prediction(image.name, image.label, labels, image.problem))
        return predictions

    def probabilities(self, images: Sequence[ImageLike], **how: Any) -> np.ndarray:
        """float32 [N, C]; NaN for an image that cannot be read.

        Args:
          how: `ten_crop` (False), `batch_size` (32), `threads` (4).
        """
        return self._rows(self._score, images, **how)

    def features(
        self,
        images: Sequence[ImageLike],
        layer: str = "pooled",
        l2_normalize: bool = False,
        **how: Any,
    ) -> np.ndarray:
        """float32 [N, D], D = 2,048 for the released networks; NaN for an unreadable image.

        Args:
          layer: pooled, stage0 to stage3, or logits.
          l2_normalize: scale each row to length 1.
          how: see `probabilities`.
        """
        return self._rows(layer, images, l2_normalize, **how)

    def evaluate(self, images: Sequence[str] | str, **options: Any) -> Evaluation:
        """The metrics on labeled images: `.metrics` by name, `.classes` by column.

        Args:
          images: list files, or a folder of TFRecords.
          options: of `EvaluationOptions`, such as `threshold=0.9`.
        """
        records = images if isinstance(images, str) else ""
        lists = [] if records else list(map(str, images))
        sources = EvaluationImages(lists, records, self.network.class_num, MAX_UNREADABLE)
        defaults = {"label_mode": self.label_mode, "probabilities": self._probabilities}
        return evaluation.evaluate(self._loaded, sources, EvaluationOptions(**defaults | options))

    def _rows(self, output: str, images: Sequence[ImageLike], *args: Any, **how: Any) -> np.ndarray:
        rows = []
        for batch, values in self._run(output, images, *args, **how):
            readable = np.array([[not image.problem] for image in batch.images])
            rows.append(np.where(readable, values, np.float32(np.nan)))
        return np.concatenate(rows)

    def _run(
        self,
        output: str,
        images: Sequence[ImageLike],
        l2_normalize: bool = False,
        ten_crop: bool = False,
        batch_size: int = 32,
        threads: int = 4,
    ) -> Iterator[tuple[image_batches.ImageBatch, np.ndarray]]:
        """Batches, and the network's output for each, float32 [B, ...]."""
        prepare, predict = self._preparation(ten_crop), self._predictor(output, l2_normalize)
        for batch in image_batches.batches(_sources(images), prepare, batch_size, threads):
            yield batch, predict(batch.crops)


def _sources(images: Sequence[ImageLike]) -> Iterable[Any]:
    if isinstance(images, str | Path | bytes | np.ndarray | Image.Image):
        raise UserError("give a list of images, such as [image]")
    for number, image in enumerate(images):
        if isinstance(image, str | Path):
            yield from image_source.images([str(image)])
        else:
            yield _InMemory(f"image {number}", "", _encoded(image, number))


def _encoded(image: bytes | np.ndarray | Image.Image, number: int) -> bytes:
    """The bytes of an image; pixels become a PNG, which is lossless."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(
                f"image {number} is {image.dtype} {list(image.shape)}: pixels are uint8 [H, W, 3]"
            )
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
