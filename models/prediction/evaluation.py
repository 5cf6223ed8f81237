"""Measures a checkpoint on labeled images: the metrics, and what else a report shows.

evaluate.py calls it with its flags; a Python program passes options:

    loaded = inference.load("out/checkpoint", NetworkOptions())
    images = EvaluationImages(["val_list.txt"], "", loaded.network.class_num, 0)
    print(evaluate(loaded, images, EvaluationOptions(label_mode="multi")).metrics)
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from absl import logging

from data.common.errors import UserError
from data.common.image_memory import MAX_IMAGE_BYTES
from data.common.images import MAX_PIXELS
from data.input.evaluation import EvaluationBatch, EvaluationImages, with_progress
from data.input.image_batches import Preparation
from data.lists.class_files import read_class_mask
from data.outputs.evaluated_images import EvaluatedImage, EvaluatedImages, ScoredLabel
from data.outputs.evaluation_report import Evaluation
from models.calibration import Calibration
from models.checkpoints import checkpoint, metadata
from models.distributed.base import Distributed, SingleProcess
from models.metrics import definitions
from models.metrics.accumulators import HardestExamples, gather_rows
from models.metrics.evaluators import MultiLabelEvaluator, MultiLabelOptions, SingleLabelEvaluator
from models.metrics.mistakes import ImageLabelCounter, ImageLabels
from models.prediction.image_job import SCORES
from models.prediction.inference import Loaded, Predictor

SCORE_DIGITS = 7
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class EvaluationOptions:
    """How a checkpoint is measured; the fields are the flags of the same name.

    Without `threshold` and `threshold_file`, classes are predicted from the thresholds kept with
    the checkpoint, or from 0.5 if it has none.
    """

    label_mode: str
    dictionary: str | None = None
    at_k: Sequence[str] = ("5", "10")
    threshold: float | None = None
    threshold_file: str | None = None
    probabilities: str = "raw"
    calibrate: bool = False
    positive_threshold: float = 0.5
    supported_classes: str | None = None
    top_k_pred: int = 10
    scratch_dir: str | None = None
    batch_size: int = 32
    num_preprocess_threads: int = 4
    ten_crop: bool = False
    max_pixels: int = MAX_PIXELS
    max_image_bytes: int = MAX_IMAGE_BYTES

    def preparation(self, image_size: int) -> Preparation:
        """The preprocessing that makes crops of this size."""
        return Preparation(image_size, self.ten_crop, self.max_pixels, self.max_image_bytes)

    def thresholds(self, loaded: Loaded, calibration: Calibration) -> np.ndarray | None:
        """float32 [C], probabilities from which classes are predicted; None for a single label."""
        if self.label_mode == "single":
            return None
        known = loaded.prefix, loaded.network.class_num, calibration, loaded.use_ema
        return metadata.thresholds_of(
            *known, self.threshold, self.threshold_file, DEFAULT_THRESHOLD
        )

    def calibration(self, prefix: str, use_ema: bool) -> Calibration:
        """The calibration of a checkpoint's scores. Raises UserError: it lacks the information."""
        if self.calibrate and self.probabilities != "raw":
            raise UserError(
                f"--calibrate fits to raw scores: leave out --probabilities={self.probabilities}"
            )
        score = SCORES[self.label_mode]
        if self.calibrate:
            metadata.logit_shift(prefix, score)  # for its errors
        return metadata.calibration_of(prefix, self.probabilities, score, use_ema)


def evaluate(
    loaded: Loaded,
    images: EvaluationImages,
    options: EvaluationOptions,
    job: Distributed | None = None,
    log: EvaluatedImages | None = None,
) -> Evaluation:
    """The metrics of a checkpoint over all images.

    Args:
      job: the workers that share the images; all of them call this and get the same result.
      log: receives the labels of this worker's images, and is closed.

    Raises:
      UserError: an option, a label or a file that an option names is wrong, or no image can be
        read.
    """
    job = job or SingleProcess()
    class_num, prepare = loaded.network.class_num, options.preparation(loaded.image_size)
    batches = images.batches(
        prepare,
        max(1, options.batch_size // prepare.crops),
        options.num_preprocess_threads,
        *(job.rank, job.size),  # Horovod: each worker evaluates its own batches.
    )
    calibration = options.calibration(loaded.prefix, loaded.use_ema)
    thresholds = options.thresholds(loaded, calibration)
    evaluator = make_evaluator(loaded, options, thresholds, job)
    hardest = HardestExamples(class_num, positive_threshold=options.positive_threshold)
    labels_of_images = make_label_counter(class_num, options, thresholds)
    score = SCORES[options.label_mode]
    predictor = Predictor(loaded.network, score, calibration=calibration)
    for batch in with_progress(batches):
        scores = predictor(batch.crops)
        counted = evaluator.update(scores, batch.label_index, batch.label_value)
        hardest.update(counted, batch.sample_index)
        found = labels_of_images.update(counted)
        if log:
            log.add(_described(batch, found))
    if log:
        log.close()
    hardest.gather(job)  # Horovod: the report covers the images of all workers.
    images.left_out = gather_rows(images.left_out, job)
    images.check_any(job.sum(np.array([images.readable]))[0])
    counts, statistics = evaluator.measure(), labels_of_images.measure(job)
    fit = None
    if options.calibrate:
        fit = evaluator.fit(counts, metadata.logit_shift(loaded.prefix, score))
    return Evaluation(
        checkpoint=loaded.prefix,
        step=checkpoint.describe(loaded.prefix).step,
        metrics=definitions.compute_all(counts),
        hardest=hardest.sample_index,
        unreadable=len(images.left_out),
        mean_if_present=statistics.present,
        mean_if_absent=statistics.absent,
        confusions=statistics.confusions,
        fit=fit,
        **counts.for_report(),
    )


def keep_fit(measured: Evaluation, options: EvaluationOptions, use_ema: bool, data: str) -> None:
    """Stores the fit with the checkpoint and logs it; only one worker calls this.

    Raises CheckpointError: the JSON next to the checkpoint cannot be written.
    """
    fit = measured.fit
    section = {
        "temperature": fit.temperature,
        "score": SCORES[options.label_mode],
        "use_ema": use_ema,
        "data": data,
        "images": measured.metrics["images"],
        "ece": fit.errors,
    }
    if measured.step is not None:
        section["step"] = measured.step
    if fit.thresholds is not None:
        section["thresholds"] = fit.thresholds.tolist()
    checkpoint.save_meta(measured.checkpoint, {"calibration": section})
    logging.info(
        "temperature %.3f kept with %s; expected calibration error on the images it was fitted on:"
        " %.4f raw, %.4f corrected, %.4f calibrated",
        *(fit.temperature, measured.checkpoint, *fit.errors.values()),
    )


def _described(batch: EvaluationBatch, found: ImageLabels) -> Iterator[EvaluatedImage]:
    """The images of a batch with their labels."""
    scores = found.scores.astype(np.float64).round(SCORE_DIGITS)  # shorter, and good enough
    columns = (c.tolist() for c in (found.classes, scores, found.positive, found.predicted))
    labels = list(itertools.starmap(ScoredLabel, zip(*columns, strict=True)))
    bounds = np.searchsorted(found.rows, np.arange(len(batch.names) + 1)).tolist()
    images = zip(batch.sample_index.tolist(), batch.names, found.losses.tolist(), strict=True)
    for image, (start, stop) in zip(images, itertools.pairwise(bounds), strict=True):
        yield EvaluatedImage(*image, tuple(labels[start:stop]))


def make_evaluator(
    loaded: Loaded, options: EvaluationOptions, thresholds: np.ndarray | None, job: Distributed
) -> MultiLabelEvaluator | SingleLabelEvaluator:
    """A new evaluator with these options."""
    class_num = loaded.network.class_num
    if options.label_mode == "single":
        return SingleLabelEvaluator(class_num, job, fits=options.calibrate)
    hierarchy = metadata.classes_of(loaded.prefix, class_num, options.dictionary).hierarchy
    supported = options.supported_classes and read_class_mask(options.supported_classes, class_num)
    if not all(k.isdecimal() and int(k) for k in options.at_k):
        raise UserError(f"--at_k={','.join(options.at_k)}: use numbers above 0, such as 5,10")
    measured = MultiLabelOptions(
        top=tuple(map(int, options.at_k)),
        threshold=thresholds,
        positive_threshold=options.positive_threshold,
        supported=supported,
        parents=None if hierarchy is None else hierarchy.parents,
        scratch_dir=options.scratch_dir,
    )
    return MultiLabelEvaluator(class_num, job, measured)


def make_label_counter(
    class_num: int, options: EvaluationOptions, thresholds: np.ndarray | None
) -> ImageLabelCounter:
    """A new counter with these options."""
    if options.label_mode == "single":  # the one label is positive at any confidence
        return ImageLabelCounter(class_num, options.top_k_pred, None, np.finfo(np.float32).tiny)
    return ImageLabelCounter(class_num, options.top_k_pred, thresholds, options.positive_threshold)
