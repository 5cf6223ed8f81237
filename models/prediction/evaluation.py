"""Measures a checkpoint on labeled images: the metrics, and what a report shows besides them.

evaluate.py calls it with its flags, a Python program with options:

    loaded = inference.load("out/checkpoint", NetworkOptions())
    images = EvaluationImages(["val_list.txt"], "", loaded.network.class_num, 0)
    print(evaluate(loaded, images, EvaluationOptions(label_mode="multi")).metrics)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.common.errors import UserError
from data.common.image_memory import MAX_IMAGE_BYTES
from data.common.images import MAX_PIXELS
from data.input.evaluation import EvaluationImages, read_classes, watched
from data.input.image_batches import Preparation
from data.outputs.evaluation_report import Evaluation
from data.outputs.predictions import class_names, read_thresholds
from models.checkpoints import checkpoint
from models.distributed.base import Distributed, SingleProcess
from models.metrics import definitions
from models.metrics.accumulators import HardestExamples, gather_rows
from models.metrics.evaluators import MultiLabelEvaluator, MultiLabelOptions, SingleLabelEvaluator
from models.prediction.image_job import SCORES
from models.prediction.inference import Loaded, Predictor


@dataclass(frozen=True)
class EvaluationOptions:
    """How a checkpoint is measured; the fields are the flags of the same name."""

    label_mode: str
    dictionary: str | None = None
    at_k: Sequence[str] = ("5", "10")
    threshold: float = 0.5
    threshold_file: str | None = None
    positive_threshold: float = 0.5
    supported_classes: str | None = None
    scratch_dir: str | None = None
    batch_size: int = 32
    num_preprocess_threads: int = 4
    ten_crop: bool = False
    max_pixels: int = MAX_PIXELS
    max_image_bytes: int = MAX_IMAGE_BYTES

    def preparation(self, image_size: int) -> Preparation:
        """Makes crops of this size of the images."""
        return Preparation(image_size, self.ten_crop, self.max_pixels, self.max_image_bytes)


def evaluate(
    loaded: Loaded,
    images: EvaluationImages,
    options: EvaluationOptions,
    job: Distributed | None = None,
) -> Evaluation:
    """The metrics of a checkpoint over all images.

    Args:
      job: the workers that share the images; all of them call this and get the same.

    Raises:
      UserError: an option, a label or a file of the options is wrong, or no image can be read.
    """
    job = job or SingleProcess()
    class_num, prepare = loaded.network.class_num, options.preparation(loaded.image_size)
    batches = images.batches(
        prepare,
        max(1, options.batch_size // prepare.crops),
        options.num_preprocess_threads,
        *(job.rank, job.size),  # Horovod: each evaluates its own batches.
    )
    evaluator = make_evaluator(class_num, options, job)
    hardest = HardestExamples(class_num, positive_threshold=options.positive_threshold)
    predictor = Predictor(loaded.network, SCORES[options.label_mode])
    for batch in watched(batches):
        scores, labels = predictor(batch.crops), (batch.label_index, batch.label_value)
        evaluator.update(scores, *labels)
        hardest.update(scores, *labels, batch.sample_index)
    hardest.gather(job)  # Horovod: the report is of the images of all workers.
    images.left_out = gather_rows(images.left_out, job)
    images.check_any(job.sum(np.array([images.readable]))[0])
    counts = evaluator.measure()
    return Evaluation(
        checkpoint=loaded.prefix,
        step=checkpoint.describe(loaded.prefix).step,
        metrics=definitions.compute_all(counts),
        hardest=hardest.sample_index,
        unreadable=len(images.left_out),
        **counts.for_report(),
    )


def make_evaluator(
    class_num: int, options: EvaluationOptions, job: Distributed
) -> MultiLabelEvaluator | SingleLabelEvaluator:
    """An empty evaluator as the options say."""
    if options.label_mode == "single":
        return SingleLabelEvaluator(class_num, job)
    _, hierarchy = class_names(options.dictionary, class_num)
    threshold: float | np.ndarray = options.threshold
    if options.threshold_file:
        threshold = read_thresholds(options.threshold_file, class_num, options.threshold)
    supported = options.supported_classes and read_classes(options.supported_classes, class_num)
    if not all(k.isdecimal() and int(k) for k in options.at_k):
        raise UserError(f"--at_k={','.join(options.at_k)}: use numbers above 0, such as 5,10")
    measured = MultiLabelOptions(
        top=tuple(map(int, options.at_k)),
        threshold=threshold,
        positive_threshold=options.positive_threshold,
        supported=supported,
        parents=None if hierarchy is None else hierarchy.parents,
        scratch_dir=options.scratch_dir,
    )
    return MultiLabelEvaluator(class_num, job, measured)
