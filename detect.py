"""Trains, evaluates and runs an object detector; see example/detect_voc2007.sh.

    python detect.py --model_dir=CHECKPOINT --result=detections.json --draw_dir=drawn/ IMAGE...
    python detect.py --mode=train --data_dir=RECORDS --pretrain_ckpt=CHECKPOINT
    python detect.py --mode=val --val_dir=RECORDS

Faster R-CNN on the third stage of the network (docs/transfer.md). data/dense_records.py makes the
records. The suffix of --result selects COCO's JSON format (.json) or JSON lines (.jsonl).
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

import flags
import train
from data.common import script
from data.common.script import from_flags
from data.common.sharding import StepShard
from data.dense.annotation import read_classes
from data.input.dense import DetectionImages, DetectionInput, DetectionInputOptions
from data.input.dense_images import detector_input
from data.input.image_batches import ImageBatch, WholeImage
from data.outputs import dense_files
from data.outputs.dense_files import Row
from data.outputs.result_files import choose_format
from models.architecture import matches
from models.checkpoints import metadata
from models.detection.faster_rcnn import FasterRCNN, is_frozen
from models.detection.inference import DetectionMeasure, Detector, Objects
from models.detection.objective import DetectionObjective
from models.detection.options import DetectionOptions
from models.devices import DeviceOptions
from models.distributed.base import Distributed, SingleProcess
from models.prediction import dense, image_job
from models.prediction.image_job import ImageJobOptions
from models.training.fit import fit
from models.training.trainer import Trainer
from models.training.validation import Validation

FLAGS = flags.FLAGS
# Flags whose values come from the checkpoint unless given on the command line.
FROM_CHECKPOINT = (
    *("batch_norm_epsilon", "min_side", "max_side"),
    *("trainable", "optimizer", "ema_decay"),
    *("anchor_scales", "anchor_ratios", "rpn_channels"),
)
# Flags that affect the rows of a result; an interrupted result resumes only with equal values.
SETTINGS = (
    *(
        "precision",
        "use_ema",
        "batch_norm_epsilon",
        "test_proposals",
        "nms_iou",
        "score_threshold",
        "max_detections",
    ),
    *("dictionary", "draw_dir", "draw_threshold", "min_side", "max_side"),
    *("max_pixels", "max_image_bytes"),
)


def main() -> int:
    if FLAGS.mode == "predict":
        return predict()
    places = FLAGS.model_dir, FLAGS.pretrain_ckpt, FLAGS.data_dir
    script.set_defaults(dense.run_defaults(FLAGS.mode, *places, FROM_CHECKPOINT))
    return fit(Detection(), train.run_options())


class Detection:
    """Object detection, boxes and classes; see `models.training.fit.Task`."""

    skip: Sequence[str] = ("logits/*", "detection/*")
    read_classes = staticmethod(read_classes)

    def trains(self, name: str) -> bool:
        """Whether a variable is trained: by --trainable or, without it, by the protocol."""
        return matches(name, FLAGS.trainable) if FLAGS.trainable else not is_frozen(name)

    def network(self, job: Distributed, sizes: Mapping[str, int]) -> FasterRCNN:
        """The detector described by the flags, with initial values."""
        script.set_defaults(sizes)
        backbone = train.make_backbone(job)
        anchors = {name: script.numbers(name) for name in ("anchor_scales", "anchor_ratios")}
        options = from_flags(DetectionOptions, **anchors)
        return FasterRCNN(backbone, FLAGS.class_num, options, FLAGS.random_seed)

    def image_sizes(self) -> str:
        """The image size, for the log."""
        return f"short sides of {FLAGS.min_side} pixels"

    def next_commands(self) -> Sequence[str]:
        """Commands to run next with the checkpoint."""
        return ("python detect.py --model_dir={model_dir} --draw_dir=drawn/ IMAGE...",)

    def objective(self) -> DetectionObjective:
        """The detector's four losses."""
        return DetectionObjective(FLAGS.class_num)

    def training_input(self, step_shard: StepShard) -> DetectionInput:
        """Resized images with their objects."""
        return DetectionInput(from_flags(DetectionInputOptions), step_shard)

    def evaluation(self, trainer: Trainer, job: Distributed) -> Validation:
        """Average precision on --val_dir."""
        images = DetectionImages(from_flags(DetectionInputOptions, data_dir=FLAGS.val_dir))
        # Horovod: each worker evaluates its own images.
        own = functools.partial(images.images, job.rank, job.size)
        measure = DetectionMeasure(trainer.network, own, job, FLAGS.coco_metrics)
        return Validation(measure, trainer.average)


def predict() -> int:
    """Finds the objects in images, writes them, and draws them if --draw_dir is given."""
    choose_format(dense_files.formats([]), FLAGS.result)  # rejects an unknown suffix early
    path = FLAGS.pretrain_ckpt or FLAGS.model_dir
    script.set_defaults(dense.trained_with(path, FROM_CHECKPOINT))
    make_network = functools.partial(Detection().network, SingleProcess())
    loaded = dense.load(path, make_network, from_flags(DeviceOptions), FLAGS.use_ema)
    known = loaded.prefix, loaded.network.class_num, FLAGS.dictionary, read_classes
    names = metadata.classes_of(*known).names
    detector = Detector(loaded.network)

    def detect(pixels: np.ndarray) -> tuple[np.ndarray, Objects]:
        image, sizes, scale = detector_input(pixels[0], FLAGS.min_side, FLAGS.max_side)
        return pixels[0], detector(image, sizes, scale)

    def describe(batch: ImageBatch, values: tuple[np.ndarray, Objects]) -> list[Row]:
        (image,), (pixels, objects) = batch.images, values
        if image.problem:
            return [Row(image.name, (0, 0), [], image.problem)]
        found = dense_files.found_objects(*objects, names)
        if FLAGS.draw_dir:
            drawn = [item for item in found if item["score"] >= FLAGS.draw_threshold]
            path = dense_files.file_in(FLAGS.draw_dir, image.name, ".jpg")
            dense_files.save_image(dense_files.draw_objects(pixels, drawn), path)
        return [Row(image.name, pixels.shape[:2], found)]

    result_format = choose_format(dense_files.formats(names), FLAGS.result)
    group, options = image_job.process_group(), from_flags(ImageJobOptions, batch_size=1)
    job = loaded, group, options, result_format, detect, describe, script.values(*SETTINGS)
    return image_job.run(*job, prepare=WholeImage(FLAGS.max_pixels, FLAGS.max_image_bytes))


if __name__ == "__main__":
    script.run(main, files="images")
