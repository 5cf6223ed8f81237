"""Trains, evaluates and runs a semantic segmentation network; see example/segment_voc2012.sh.

    python segment.py --model_dir=CHECKPOINT --masks_dir=masks/ --draw_dir=drawn/ IMAGE...
    python segment.py --mode=train --data_dir=RECORDS --pretrain_ckpt=CHECKPOINT
    python segment.py --mode=val --val_dir=RECORDS --output_stride=8 --test_flip

DeepLabv3 on the network with dilated convolutions (docs/transfer.md). data/dense_records.py makes
the records. Masks are PNGs whose pixel values are class indices, in VOC's colors; --result lists
them.
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
from data.input.dense import SegmentationImages, SegmentationInput, SegmentationInputOptions
from data.input.dense_images import segmenter_input
from data.input.image_batches import ImageBatch, WholeImage
from data.outputs import dense_files
from data.outputs.dense_files import Row
from data.outputs.result_files import choose_format
from models.architecture import matches
from models.checkpoints import metadata
from models.devices import DeviceOptions
from models.distributed.base import Distributed, SingleProcess
from models.prediction import dense, image_job
from models.prediction.image_job import ImageJobOptions
from models.segmentation.deeplab import DeepLab, DeepLabOptions
from models.segmentation.inference import SegmentationMeasure, Segmenter
from models.segmentation.objective import SegmentationObjective
from models.training.fit import fit
from models.training.trainer import Trainer
from models.training.validation import Validation

FLAGS = flags.FLAGS
# Flags whose values come from the checkpoint unless given on the command line.
FROM_CHECKPOINT = (
    *("batch_norm_epsilon", "trainable", "optimizer", "ema_decay"),
    *("output_stride", "aspp_filters", "aspp_rates"),
)
# Flags that affect the rows of a result; an interrupted result resumes only with equal values.
SETTINGS = (
    *(
        "precision",
        "use_ema",
        "batch_norm_epsilon",
        "output_stride",
        "test_scales",
        "test_flip",
        "dictionary",
    ),
    *("masks_dir", "draw_dir", "max_pixels", "max_image_bytes"),
)


def main() -> int:
    if FLAGS.mode == "predict":
        return predict()
    places = FLAGS.model_dir, FLAGS.pretrain_ckpt, FLAGS.data_dir
    script.set_defaults(dense.run_defaults(FLAGS.mode, *places, FROM_CHECKPOINT))
    return fit(Segmentation(), train.run_options())


class Segmentation:
    """Semantic segmentation; see `models.training.fit.Task`."""

    skip: Sequence[str] = ("logits/*", "segmentation/*")
    read_classes = staticmethod(read_classes)

    def trains(self, name: str) -> bool:
        """Whether a variable is trained: if it matches --trainable; without the flag, all are."""
        return not FLAGS.trainable or matches(name, FLAGS.trainable)

    def network(self, job: Distributed, sizes: Mapping[str, int]) -> DeepLab:
        """The network described by the flags, with initial values."""
        script.set_defaults(sizes)
        backbone = train.make_backbone(job, output_stride=FLAGS.output_stride)
        options = DeepLabOptions(FLAGS.aspp_filters, tuple(map(int, script.numbers("aspp_rates"))))
        return DeepLab(backbone, FLAGS.class_num, options, FLAGS.random_seed)

    def image_sizes(self) -> str:
        """The crop size, for the log."""
        return f"{FLAGS.crop_size} x {FLAGS.crop_size} pixels"

    def next_commands(self) -> Sequence[str]:
        """Commands to run next with the checkpoint."""
        return ("python segment.py --model_dir={model_dir} --draw_dir=drawn/ IMAGE...",)

    def objective(self) -> SegmentationObjective:
        """Per-pixel cross-entropy."""
        return SegmentationObjective(FLAGS.class_num)

    def training_input(self, step_shard: StepShard) -> SegmentationInput:
        """Random crops with their masks."""
        return SegmentationInput(from_flags(SegmentationInputOptions), step_shard)

    def evaluation(self, trainer: Trainer, job: Distributed) -> Validation:
        """mIoU on --val_dir."""
        images = SegmentationImages(from_flags(SegmentationInputOptions, data_dir=FLAGS.val_dir))
        segmenter = Segmenter(trainer.network, script.numbers("test_scales"), FLAGS.test_flip)
        # Horovod: each worker evaluates its own images.
        own = functools.partial(images.images, job.rank, job.size)
        measure = SegmentationMeasure(segmenter, FLAGS.class_num, own, job)
        return Validation(measure, trainer.average)


def predict() -> int:
    """Writes the masks of images, lists them, and draws them if --draw_dir is given."""
    result_format = choose_format(dense_files.LINE_FORMATS, FLAGS.result)
    path = FLAGS.pretrain_ckpt or FLAGS.model_dir
    script.set_defaults(dense.trained_with(path, FROM_CHECKPOINT))
    make_network = functools.partial(Segmentation().network, SingleProcess())
    loaded = dense.load(path, make_network, from_flags(DeviceOptions), FLAGS.use_ema)
    known = loaded.prefix, loaded.network.class_num, FLAGS.dictionary, read_classes
    names = metadata.classes_of(*known).names
    segmenter = Segmenter(loaded.network, script.numbers("test_scales"), FLAGS.test_flip)

    def segment(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return pixels[0], segmenter(segmenter_input(pixels[0]))

    def describe(batch: ImageBatch, values: tuple[np.ndarray, np.ndarray]) -> list[Row]:
        (image,), (pixels, mask) = batch.images, values
        if image.problem:
            return [Row(image.name, (0, 0), None, image.problem)]
        path = dense_files.file_in(FLAGS.masks_dir, image.name, ".png")
        dense_files.save_image(dense_files.mask_image(mask), path)
        if FLAGS.draw_dir:
            drawn = dense_files.file_in(FLAGS.draw_dir, image.name, ".jpg")
            dense_files.save_image(dense_files.draw_mask(pixels, mask), drawn)
        return [Row(image.name, mask.shape, dense_files.found_mask(mask, names, str(path)))]

    group, options = image_job.process_group(), from_flags(ImageJobOptions, batch_size=1)
    job = loaded, group, options, result_format, segment, describe, script.values(*SETTINGS)
    return image_job.run(*job, prepare=WholeImage(FLAGS.max_pixels, FLAGS.max_image_bytes))


if __name__ == "__main__":
    script.run(main, files="images")
