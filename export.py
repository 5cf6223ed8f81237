"""Exports to SavedModel, ONNX or PyTorch with a model card; imports weights.

    python export.py --model_dir=CHECKPOINT --export_dir=out/export IMAGE...
    python export.py --model_dir=CHECKPOINT --list
    python export.py --import_weights=model.safetensors --result=out/imported/model.ckpt-0

Every export is run on the images (synthetic ones if none are given) and compared with the
checkpoint; --export_dir is created only if all of them agree.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging

import flags
from data.common import script

# isort: split
import tensorflow as tf  # must come after script, which configures it

from data.common import output_lock
from data.common.errors import UserError
from data.input import exif_ops, image_source, preprocess
from data.input.image_batches import Preparation, load_all
from data.lists.classes import Classes
from models.architecture import DENSE_BIAS
from models.checkpoints import checkpoint, metadata, weight_files
from models.checkpoints import report as checkpoint_report
from models.checkpoints.files import GLOB_CHARACTERS
from models.export import model_card
from models.export.exporting import EXPORTERS, Check, Source
from models.prediction.image_job import SCORES, label_mode
from models.prediction.inference import FROM_CHECKPOINT, Loaded, NetworkOptions, load

FLAGS = flags.FLAGS
CARD, CLASSES, IMAGES_CHECKED = "README.md", "classes.txt", 8


def main() -> int:
    if FLAGS.import_weights:
        return import_weights()
    if FLAGS.list:
        prefix = checkpoint.find(FLAGS.pretrain_ckpt or FLAGS.model_dir)
        print(*checkpoint_report.lines(prefix), sep="\n")
        return 0
    return export()


def import_weights() -> int:
    """Converts --import_weights to the checkpoint --result, and reads it back."""
    if not FLAGS.result:
        raise UserError("--import_weights needs --result, the checkpoint to make")
    output_lock.claim_file("result", FLAGS.result)
    tensors = weight_files.read(FLAGS.import_weights)
    given = (name for name in ("image_size", "batch_norm_epsilon") if FLAGS[name].present)
    meta = {"imported_from": str(FLAGS.import_weights)}
    meta["flags"] = {name: FLAGS[name].value for name in given}
    if FLAGS.dictionary:
        classes, class_num = Classes.read(FLAGS.dictionary), len(tensors[DENSE_BIAS])
        meta["classes"] = classes.check_number(class_num, FLAGS.dictionary).section()
    prefix = weight_files.write_checkpoint(FLAGS.result, tensors, meta)
    logging.info("%s: %d tensors, read back and equal", prefix, len(tensors))
    return 0


def export() -> int:
    """Writes the formats of --export_format to --export_dir, checks them, and adds a model card."""
    formats = list(dict.fromkeys(FLAGS.export_format))
    with _new_folder(Path(FLAGS.export_dir)) as folder:
        plain = _load(fold_batch_norm=False)
        script.set_defaults(label_mode(plain.prefix))
        source = _source(plain)
        checks = [check for name in formats for check in _run(name, source, folder)]
        exported = model_card.Exported(
            description=checkpoint.describe(plain.prefix),
            image_size=plain.image_size,
            calibration=source.calibration,
            formats=formats,
            checks=checks,
            images=len(source.encoded),
            kind="given" if FLAGS.images else "made up",
            meta=checkpoint.read(plain.prefix).meta(),
        )
        (folder / CLASSES).write_text("\n".join(source.names) + "\n", encoding="utf-8")
        (folder / CARD).write_text(model_card.text(exported, folder), encoding="utf-8")
    logging.info("%s: %s and %s", FLAGS.export_dir, ", ".join(formats), CARD)
    return 0


def _run(name: str, source: Source, folder: Path) -> list[Check]:
    checks = EXPORTERS[name](source, folder)
    for check in checks:
        logging.info(
            "%s: max difference %.1e (of at most %g)",
            *(check.what, check.difference, check.tolerance),
        )
    return checks


def _source(plain: Loaded) -> Source:
    known = plain.prefix, plain.network.class_num, FLAGS.dictionary
    scores = FLAGS.probabilities, SCORES[FLAGS.label_mode], plain.use_ema

    def prepare(contents: tf.Tensor) -> tf.Tensor:
        image = exif_ops.upright(preprocess.decode_jpeg_or_png(contents), contents)
        return preprocess.inference_crops(image, plain.image_size)[0]

    encoded, images = _images(Preparation(plain.image_size))
    return Source(
        network=plain.network,
        served=_load(FLAGS.fold_batch_norm).network,
        prepare=prepare,
        image_size=plain.image_size,
        epsilon=plain.batch_norm_epsilon,
        names=metadata.classes_of(*known).names,
        calibration=metadata.calibration_of(plain.prefix, *scores),
        top_k=FLAGS.top_k_pred,
        encoded=encoded,
        images=images,
        tolerance=FLAGS.tolerance,
    )


def _load(fold_batch_norm: bool) -> Loaded:
    own = {"fold_batch_norm": fold_batch_norm, "precision": "float32"}
    options = script.from_flags(NetworkOptions, **own, **script.given(*FROM_CHECKPOINT))
    return load(FLAGS.pretrain_ckpt or FLAGS.model_dir, options)


def _images(as_inference: Preparation) -> tuple[list[bytes], np.ndarray]:
    """The encoded image files, and the network inputs that inference makes of them."""
    if not FLAGS.images:
        return (made := _made_up_images()), np.concatenate(list(map(as_inference, made)))
    found = image_source.images(FLAGS.images, 0, IMAGES_CHECKED, None, FLAGS.images_dir)
    return load_all(found, as_inference)


def _made_up_images() -> list[bytes]:
    colors = np.random.default_rng(0).integers(0, 256, (IMAGES_CHECKED, 9, 12, 3))
    images = tf.cast(tf.image.resize(colors, [384, 512]), tf.uint8)
    return [tf.io.encode_jpeg(image).numpy() for image in images]


@contextlib.contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder, renamed to `path` on success and deleted on failure."""
    if path.exists():
        raise UserError(f"--export_dir={path} exists: choose another, or remove it")
    if "saved_model" in FLAGS.export_format and set(str(path)) & GLOB_CHARACTERS:
        raise UserError(
            f"--export_dir={path}: TensorFlow could not load a SavedModel from there, because it"
            " takes the path for a glob; choose one without * ? [ and backslash"
        )
    output_lock.claim_file("export_dir", path)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.mkdir()
    try:
        yield temporary
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    script.run(main, files="images")
