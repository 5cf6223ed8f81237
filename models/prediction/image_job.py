"""Predicts images with a checkpoint: loads it, shards the images, writes the result.

image_classification.py and extract_feature.py run it; evaluate.py and export.py use parts of it.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from data.common import mirror, output_lock, processes
from data.common.processes import ProcessGroup, this_process
from data.input.image_batches import ImageBatch, Preparation, WholeImage
from data.outputs.batch_predictor import BatchPredictor
from data.outputs.result_files import ResultFormat
from models.checkpoints import checkpoint
from models.devices import DeviceOptions
from models.distributed import launch
from models.distributed.base import DistributedOptions
from models.losses import LOSSES
from models.prediction import inference
from models.prediction.inference import Loaded, NetworkOptions

SCORES = {"single": "softmax", "multi": "sigmoid"}
"""--label_mode -> the output of the network."""

# Flags that change the output: a resumed run must have the same values.
DECISIVE = (
    *("ten_crop", "fold_batch_norm", "use_ema", "precision"),
    *("max_pixels", "max_image_bytes"),
)


@dataclasses.dataclass(frozen=True)
class ImageJobOptions:
    """The fields are the flags of the same name."""

    images: Sequence[str]
    images_dir: str | None
    result: str
    batch_size: int
    num_preprocess_threads: int
    ten_crop: bool
    max_pixels: int
    max_image_bytes: int
    strict: bool


def load(path: str, options: NetworkOptions, devices: DeviceOptions) -> Loaded:
    """The network of a checkpoint, or of a folder's latest one, on the devices of this process."""
    process = this_process()
    devices.apply(process.local_rank, process.size > 1)
    loaded = inference.load(path, options)
    network = loaded.network
    logging.info(
        "%s: depth %d, %d classes, %d x %d pixels",
        *(loaded.prefix, network.resnet_size, network.class_num),
        *(loaded.image_size, loaded.image_size),
    )
    return loaded


def label_mode(prefix: str) -> dict[str, str]:
    """The default of --label_mode, from the loss in the checkpoint's JSON; {} without one."""
    loss = LOSSES.get(checkpoint.read(prefix).meta().get("flags", {}).get("loss"))
    return {"label_mode": "single" if loss.single_label else "multi"} if loss else {}


def run(
    loaded: Loaded,
    group: ProcessGroup,
    options: ImageJobOptions,
    result_format: ResultFormat,
    predict: Callable[[np.ndarray], Any],
    describe: Callable[[ImageBatch, np.ndarray], list],
    settings: Mapping[str, Any],
    shown: int = 0,
    prepare: Preparation | WholeImage | None = None,
) -> int:
    """Predicts every batch of `options.images` and writes the result; returns the exit code.

    Args:
      group: from `process_group`.
      describe, shown: see `BatchPredictor`.
      settings: the flags that change the rows, including those of `DECISIVE`.
      prepare: turns encoded bytes into the input of `predict`; None: crops as the options say.
    """
    result = Path(options.result)
    if group.shard.index == 0:
        output_lock.claim_file("result", result)
    warnings.filterwarnings("ignore", module="PIL")  # about metadata that we do not use
    limits = options.max_pixels, options.max_image_bytes
    prepare = prepare or Preparation(loaded.image_size, options.ten_crop, *limits)
    job = BatchPredictor(
        sources=options.images,
        result=result,
        format=result_format,
        prepare=prepare,
        predict=predict,
        describe=describe,
        settings={"checkpoint": mirror.shown(loaded.prefix), **loaded.settings(), **settings},
        batch_size=max(1, options.batch_size // prepare.crops),
        threads=options.num_preprocess_threads,
        group=group,
        shown=shown,
        images_dir=options.images_dir,
    )
    totals = job.run()
    logging.info(
        "%d images, %d of them unreadable, %.1f per second: %s",
        *(totals.images, totals.unreadable, totals.images_per_second, result),
    )
    return 1 if options.strict and totals.unreadable else 0


def process_group() -> ProcessGroup:
    """The processes that share the images: MPI's under mpirun, else Horovod's, else this one."""
    group = processes.process_group()
    if group.barrier:
        return group
    # Shards take different times, so processes that are done wait without a timeout.
    job = launch.start(DistributedOptions(stall_shutdown_seconds=0))
    return ProcessGroup(job.shard, job.barrier)
