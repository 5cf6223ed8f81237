"""Loads the checkpoints of detect.py and segment.py, and the flags they were trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from data.common.processes import this_process
from data.dense.records import classes_of_records
from models.checkpoints import checkpoint
from models.checkpoints.folder import CheckpointFolder
from models.devices import DeviceOptions
from models.prediction.inference import Loaded


def trained_with(path: str, names: Sequence[str]) -> dict[str, Any]:
    """The flags with these names of the run that made a checkpoint; {} if none were kept.

    Raises:
      CheckpointError: there is no checkpoint.
    """
    flags = checkpoint.read(checkpoint.find(path)).meta().get("flags", {})
    return {name: flags[name] for name in names if name in flags}


def run_defaults(
    mode: str, model_dir: str, pretrain_ckpt: str | None, data_dir: str, names: Sequence[str]
) -> dict[str, Any]:
    """Flags that a run can fill in if they are not given.

    For an evaluation: those of `names` from the run that made the checkpoint. For training: the
    classes named next to the records.
    """
    if mode == "train":
        return classes_of_records(data_dir)
    held = CheckpointFolder(model_dir).latest() or pretrain_ckpt
    return trained_with(held, names) if held else {}


def load(
    path: str,
    make_network: Callable[[Mapping[str, int]], Any],
    devices: DeviceOptions,
    use_ema: bool = False,
) -> Loaded:
    """The network of a checkpoint, on the devices of this process.

    Args:
      path: the checkpoint, or a folder for the latest one in it.
      make_network: sizes by flag -> the network.

    Raises:
      CheckpointError: it is missing or damaged, or of another network.
    """
    process = this_process()
    devices.apply(process.local_rank, process.size > 1)
    prefix = checkpoint.find(path)
    held = checkpoint.describe(prefix)
    sizes = {name: getattr(held, name) for name in ("resnet_size", "class_num", "width")}
    network = make_network(sizes)
    skip = "logits/*", *checkpoint.TRAINING_STATE
    checkpoint.restore(prefix, network.variables_by_name(), skip, average=use_ema)
    logging.info("%s: depth %d, %d classes", prefix, held.resnet_size, held.class_num)
    return Loaded(network, prefix, 0, 0.0)
