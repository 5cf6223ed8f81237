"""Measures checkpoints on labeled images; see example/evaluate.sh and docs/metrics.md.

    python evaluate.py --pretrain_ckpt=CHECKPOINT --label_mode=multi --val_dir=RECORDS
    python evaluate.py --pretrain_ckpt=CHECKPOINT --label_mode=multi LIST...

Runs as one process, or as several under `horovodrun`, with numbers equal to the last digit.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import logging

import flags
from data.common import mirror, output_lock, script
from data.common.errors import UserError
from data.input.evaluation import EvaluationImages
from data.input.image_batches import Preparation
from data.outputs import evaluated_images, mistakes_page
from data.outputs.evaluated_images import EvaluatedImages, write_files
from data.outputs.evaluation_report import Evaluation, Report, write_thresholds
from data.outputs.mistakes_page import MistakesPage
from data.tfrecords.reading import ReadOptions
from models.checkpoints import checkpoint, metadata
from models.checkpoints.folder import CheckpointFolder
from models.devices import DeviceOptions
from models.distributed import launch
from models.distributed.base import DistributedOptions
from models.metrics import definitions
from models.prediction import inference
from models.prediction.evaluation import EvaluationOptions, evaluate, keep_fit
from models.prediction.image_job import label_mode
from models.prediction.inference import FROM_CHECKPOINT, Loaded, NetworkOptions

FLAGS = flags.FLAGS
# The flags that affect the numbers.
SETTINGS = (
    *("label_mode", "probabilities", "ten_crop", "batch_size", "precision", "use_ema"),
    *("fold_batch_norm", "at_k", "threshold", "threshold_file", "positive_threshold"),
    *("supported_classes", "top_k_pred", "dictionary", "max_pixels", "max_image_bytes"),
)


def main() -> int:
    job = launch.start(script.from_flags(DistributedOptions))  # Horovod: join the other processes.
    script.from_flags(DeviceOptions).apply(job.local_rank, job.launched)  # Horovod: a GPU each.
    if job.rank == 0:
        output_lock.claim_folders({"result": FLAGS.result})
    prefixes = checkpoints(FLAGS.pretrain_ckpt or FLAGS.model_dir)
    compared = [checkpoint.find(FLAGS.compare)] if FLAGS.compare else []
    checkpoint.check_same_classes([*compared, *prefixes])
    script.set_defaults(label_mode(prefixes[-1]))
    if FLAGS.fit_thresholds and FLAGS.label_mode == "single":
        raise UserError("--fit_thresholds needs --label_mode=multi")
    network = script.from_flags(NetworkOptions, **script.given(*FROM_CHECKPOINT))
    options = script.from_flags(EvaluationOptions, **script.given("threshold"))
    for prefix in [*compared, *prefixes]:
        options.calibration(prefix, FLAGS.use_ema)  # raises errors before the first image
    formats, log = evaluated_images.chosen_formats(FLAGS.predictions), None
    measured = []
    last = len(compared) + len(prefixes) - 1
    for prefix in [*compared, *prefixes]:
        loaded = inference.load(prefix, network)
        images = labeled_images(loaded.network.class_num)
        if (formats or FLAGS.page_mistakes) and len(measured) == last:
            log = EvaluatedImages(Path(FLAGS.result), job.rank, job.size)
        measured.append(evaluate(loaded, images, options, job, log))
        if job.rank == 0:
            show(measured[-1])
    if job.rank == 0:  # Horovod: one process writes.
        prepare = options.preparation(loaded.image_size)
        evaluations, other = measured[len(compared) :], measured[0] if compared else None
        names = write(loaded, images, prepare, evaluations, other)
        write_images(evaluations[-1], names, images, prepare, formats, log)
        for evaluation in evaluations if FLAGS.calibrate else ():
            keep_fit(evaluation, options, FLAGS.use_ema, " ".join(images.sources))
    return 0


def checkpoints(path: str) -> list[str]:
    """Prefixes of the checkpoints to evaluate: one, or all in the folder, sorted by step."""
    if not FLAGS.all_checkpoints:
        return [checkpoint.find(path)]
    found = CheckpointFolder(path).all()
    if not found:
        raise UserError(f"--all_checkpoints: no checkpoint in folder {path}")
    return sorted(found, key=lambda prefix: (checkpoint.describe(prefix).step or 0, prefix))


def labeled_images(class_num: int) -> EvaluationImages:
    """The images of the given lists or, if none, of the records in --val_dir or --data_dir."""
    records = FLAGS.val_dir or FLAGS.data_dir
    limits = FLAGS.max_bad_records, FLAGS.images_dir
    reading = script.from_flags(ReadOptions)
    return EvaluationImages(FLAGS.images, records, class_num, *limits, reading)


def show(evaluation: Evaluation) -> None:
    """Prints the metrics of a checkpoint, one per line."""
    print(f"\n{mirror.shown(evaluation.checkpoint)}")
    print(f"{'unreadable, left out':30} {evaluation.unreadable}")
    for name, value in evaluation.metrics.items():
        print(f"{name:30} {value:.6g}")


def write(
    loaded: Loaded,
    images: EvaluationImages,
    prepare: Preparation,
    evaluations: list[Evaluation],
    compared: Evaluation | None,
) -> Sequence[str]:
    """Writes the report and, if requested, the fitted thresholds; returns the class names."""
    known = loaded.prefix, loaded.network.class_num, FLAGS.dictionary
    settings = {"data": " ".join(images.sources), **loaded.settings()}
    settings |= script.values(*SETTINGS) | checkpoint.versions()
    folder = Path(FLAGS.result)
    shown = images, prepare, FLAGS.page_classes, mistakes_page.NAME if FLAGS.page_mistakes else None
    names = metadata.classes_of(*known).names
    report = Report(names, evaluations, compared, definitions.find, settings, *shown)
    report.write(folder)
    if FLAGS.fit_thresholds:
        write_thresholds(FLAGS.fit_thresholds, evaluations[-1].thresholds)
    logging.info("report: %s", folder / "report.html")
    return names


def write_images(
    evaluation: Evaluation,
    names: list[str],
    images: EvaluationImages,
    prepare: Preparation,
    formats: list[str],
    log: EvaluatedImages | None,
) -> None:
    """Writes the files with one row per image, and the page of mistakes."""
    folder = Path(FLAGS.result)
    write_files(folder, formats, names, log, images.left_out)
    path = folder / mistakes_page.NAME
    if FLAGS.page_mistakes:
        page = MistakesPage(evaluation, names, images, prepare, FLAGS.page_mistakes)
        page.write(path, lambda: log.read(images.left_out))
    else:
        path.unlink(missing_ok=True)  # from an earlier evaluation
    if log:
        log.remove()


if __name__ == "__main__":
    script.run(main, files="images")
