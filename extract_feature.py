"""Extracts image features for other programs; see example/extract_feature.sh.

    python extract_feature.py --pretrain_ckpt=CHECKPOINT --result=features.npz IMAGE...

The suffix of --result selects the format: the released text, .npy, .npz or Parquet.
"""

import numpy as np

import flags
from data.common import script
from data.input.image_batches import ImageBatch
from data.outputs import feature_files
from data.outputs.feature_files import Feature
from data.outputs.result_files import choose_format
from models.devices import DeviceOptions
from models.prediction import image_job
from models.prediction.image_job import DECISIVE, ImageJobOptions
from models.prediction.inference import FROM_CHECKPOINT, NetworkOptions, Predictor

FLAGS = flags.FLAGS
SETTINGS = ("layer", "l2_normalize", "feature_type")


def main() -> int:
    result_format = choose_format(feature_files.formats(FLAGS.feature_type), FLAGS.result)
    network = script.from_flags(NetworkOptions, **script.given(*FROM_CHECKPOINT))
    path = FLAGS.pretrain_ckpt or FLAGS.model_dir
    loaded = image_job.load(path, network, script.from_flags(DeviceOptions))
    predictor = Predictor(loaded.network, FLAGS.layer, FLAGS.l2_normalize)
    group, options = image_job.process_group(), script.from_flags(ImageJobOptions)
    settings = script.values(*DECISIVE, *SETTINGS)
    return image_job.run(loaded, group, options, result_format, predictor, describe, settings)


def describe(batch: ImageBatch, values: np.ndarray) -> list[Feature]:
    """The features of each image of a batch, in order; NaN if an image is unreadable."""
    values[[bool(image.problem) for image in batch.images]] = np.nan
    return [
        Feature(image.name, image.label, numbers, image.problem)
        for image, numbers in zip(batch.images, values, strict=True)
    ]


if __name__ == "__main__":
    script.run(main, files="images")
