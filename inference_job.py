"""Shared by the inference scripts: from flags to a loaded network and a prediction job.

evaluate.py and export.py load their networks with it, too.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

import flags
from data.common import output_lock, processes, script
from data.common.processes import ProcessGroup, this_process
from data.input.image_batches import ImageBatch, Preparation
from data.outputs.batch_predictor import BatchPredictor
from data.outputs.result_format import ResultFormat
from models.checkpoints import checkpoint
from models.devices import DeviceOptions
from models.distributed import launch
from models.distributed.base import DistributedOptions
from models.prediction import inference

FLAGS = flags.FLAGS
SCORES = {"single": "softmax", "multi": "sigmoid"}
"""What the network gives for each --label_mode."""

# What decides on the numbers, besides the checkpoint: a resumed run must have the same.
_DECISIVE = (
    *("ten_crop", "fold_batch_norm", "use_ema", "precision"),
    *("max_pixels", "max_image_bytes"),
)


def load() -> inference.Loaded:
    """The network of --pretrain_ckpt or --model_dir, on the devices of this process."""
    process = this_process()
    script.from_flags(DeviceOptions).apply(process.local_rank, process.size > 1)
    loaded = inference.load(checkpoint_path(), network_options())
    network = loaded.network
    logging.info(
        "%s: depth %d, %d classes, %d x %d pixels",
        *(loaded.prefix, network.resnet_size, network.class_num),
        *(loaded.image_size, loaded.image_size),
    )
    return loaded


def take_label_mode(prefix: str) -> None:
    """Without --label_mode: that of the loss which a checkpoint was trained with, if it tells."""
    loss = checkpoint.read(prefix).meta().get("flags", {}).get("loss")
    if loss:
        script.set_defaults({"label_mode": "single" if loss == "softmax" else "multi"})


def network_options(**values: Any) -> inference.NetworkOptions:
    """How the flags say that a checkpoint is loaded; what they do not say, it tells itself.

    `values` go before the flags.
    """
    given = {
        name: FLAGS[name].value if FLAGS[name].present else None
        for name in ("resnet_size", "class_num", "image_size", "batch_norm_epsilon")
    }
    return script.from_flags(inference.NetworkOptions, **given, **values)


def run(
    loaded: inference.Loaded,
    group: ProcessGroup,
    result: Path,
    result_format: ResultFormat,
    predict: inference.Predictor,
    describe: Callable[[ImageBatch, np.ndarray], list],
    settings: tuple[str, ...],
    shown: int = 0,
) -> int:
    """Runs the network over every batch of --images and writes `result`; the exit code.

    Args:
      group: of `process_group`.
      describe, shown: see `BatchPredictor`.
      settings: the script's own flags that decide on the rows.
    """
    if group.shard.index == 0:
        output_lock.claim_file("result", result)
    warnings.filterwarnings("ignore", module="PIL")  # of metadata that nobody looks at
    prepare = Preparation(
        loaded.image_size, FLAGS.ten_crop, FLAGS.max_pixels, FLAGS.max_image_bytes
    )
    decisive = {name: FLAGS[name].value for name in (*_DECISIVE, *settings)}
    job = BatchPredictor(
        sources=FLAGS.images,
        result=result,
        format=result_format,
        prepare=prepare,
        predict=predict,
        describe=describe,
        settings={"checkpoint": loaded.prefix, **loaded.settings(), **decisive},
        batch_size=max(1, FLAGS.batch_size // prepare.crops),
        threads=FLAGS.num_preprocess_threads,
        group=group,
        shown=shown,
        images_dir=FLAGS.images_dir,
    )
    totals = job.run()
    logging.info(
        "%d images, %d of them unreadable, %.1f a second: %s",
        *(totals.images, totals.unreadable, totals.images_per_second, result),
    )
    return 1 if FLAGS.strict and totals.unreadable else 0


def checkpoint_path() -> str:
    """The released image_classification.py calls it --model_dir, all else --pretrain_ckpt."""
    return FLAGS.pretrain_ckpt or FLAGS.model_dir


def process_group() -> ProcessGroup:
    """The processes that share the images: by MPI under mpirun, else by Horovod, else this one."""
    group = processes.process_group()
    if group.barrier:
        return group
    # Shares may take differently long: those who are done wait without a limit.
    job = launch.start(DistributedOptions(stall_shutdown_seconds=0))
    return ProcessGroup(job.shard, job.barrier)
