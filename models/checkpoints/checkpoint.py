"""Describes, compares, restores and finds checkpoints of this network.

The file format is in files.py; `read`, `save` and `Checkpoint` come from there. The folder of a
training run is in folder.py.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from models.architecture import BLOCKS, DENSE_BIAS, STEM, kernel_name, matches
from models.backbones import RESNET
from models.checkpoints.files import (
    AVERAGE,
    MOMENTUM,
    Checkpoint,
    CheckpointError,
    files_of,
    first_few,
    read,
    save,
    save_meta,
    versions,
)
from models.checkpoints.folder import CheckpointFolder

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Description",
    "files_of",
    "read",
    "save",
    "save_meta",
    "versions",
]

GLOBAL_STEP = "global_step"
# Patterns of the variables that a training run stores in addition to the network's; the last two
# count labels for the loss (spec section 2).
TRAINING_STATE = (f"*{MOMENTUM}", f"*{AVERAGE}", GLOBAL_STEP, "Variable", "Variable_1")

# For each kind of head: its variable with a number per class -> how many of these are no class.
HEADS = {DENSE_BIAS: 0, "detection/classes/bias": 1, "segmentation/logits/bias": 0}

_RELEASED = "ckpt-resnet101-mlimages"  # what released checkpoints' names begin with
_WEIGHT_SUFFIXES = (".h5", ".hdf5", ".keras", ".npz", ".pt", ".pth", ".safetensors")
_V1_END = bytes.fromhex("57fb808b247547db")  # LevelDB's magic number, which ends a V1 file.
_FILE_SUFFIX = re.compile(r"\.(index|meta|json|data-\d{5}-of-\d{5})$")
_BLOCK_KERNEL = re.compile(r"stages_(\d)_block_\d+/conv1_b2/conv2d/kernel$")
_DEPTHS = {blocks: depth for depth, blocks in BLOCKS.items()}


class OtherTaskError(CheckpointError):
    """A checkpoint whose head is for another task: labels, objects or pixels."""


class Description(NamedTuple):
    """The network in a checkpoint, and what else is stored with it.

    Attributes:
      prefix: path of the checkpoint without the suffixes of its files.
      backbone: a key of `BACKBONES`.
      resnet_size: depth.
      class_num: number of classes.
      width: filters of the stem.
      step: training steps done; None without `global_step`.
      has_momentum: whether it holds the optimizer's momentum.
      has_average: whether it holds moving averages of the weights.
    """

    prefix: str
    backbone: str
    resnet_size: int
    class_num: int
    width: int
    step: int | None
    has_momentum: bool
    has_average: bool

    def check(self, resnet_size: int | None = None, class_num: int | None = None) -> "Description":
        """Returns itself; raises CheckpointError if an argument that is not None differs."""
        if class_num not in (None, self.class_num):
            raise CheckpointError(_classes_differ(self.prefix, self.class_num, class_num))
        if resnet_size not in (None, self.resnet_size):
            raise CheckpointError(_depths_differ(self.prefix, self.resnet_size, resnet_size))
        return self


def describe(prefix: str | Path) -> Description:
    """Describes the network of a checkpoint.

    The sizes of a ResNet follow from the names and shapes of its variables; those of another
    backbone are read from the flags in the JSON next to the checkpoint.

    Raises CheckpointError: the checkpoint cannot be read, or holds another kind of network.
    """
    checkpoint = read(prefix)
    shapes = checkpoint.shapes
    flags = checkpoint.meta().get("flags", {})
    backbone, names = flags.get("backbone", RESNET), ("resnet_size", "class_num", "width")
    if backbone == RESNET:
        resnet_size, class_num, width = sizes_of(str(prefix), shapes)
    elif set(names) <= set(flags):
        resnet_size, class_num, width = (flags[name] for name in names)
    else:
        raise CheckpointError(f"{prefix}.json lacks the sizes of its network: {', '.join(names)}")
    return Description(
        prefix=str(prefix),
        backbone=backbone,
        resnet_size=resnet_size,
        class_num=class_num,
        width=width,
        step=int(checkpoint.tensor(GLOBAL_STEP)) if GLOBAL_STEP in shapes else None,
        has_momentum=any(name.endswith(MOMENTUM) for name in shapes),
        has_average=any(name.endswith(AVERAGE) for name in shapes),
    )


def sizes_of(source: str, shapes: Mapping[str, tuple]) -> tuple[int, int, int]:
    """Depth, number of classes and width of a ResNet, from its variables' names and shapes.

    `source`, the file that they come from, is named in errors.

    Raises CheckpointError when the variables are not those of this network.
    """
    heads = [name for name in HEADS if name in shapes]
    absent = [kernel_name(STEM)] * (kernel_name(STEM) not in shapes) + [DENSE_BIAS] * (not heads)
    if absent:
        raise CheckpointError(
            f"{source} does not hold this network: it has no {absent[0]}, but {first_few(shapes)}"
        )
    counts = _block_counts(shapes)
    if counts not in _DEPTHS:
        raise CheckpointError(
            f"{source} has {counts} blocks per stage, unlike every depth of {list(BLOCKS)}"
        )
    class_num = shapes[heads[0]][0] - HEADS[heads[0]]
    return _DEPTHS[counts], class_num, shapes[kernel_name(STEM)][-1]


def check_same_classes(prefixes: Sequence[str]) -> None:
    """Raises CheckpointError unless all checkpoints have the same number of classes."""
    counts = {prefix: describe(prefix).class_num for prefix in prefixes}
    other = next((p for p in prefixes if counts[p] != counts[prefixes[0]]), None)
    if other:
        raise CheckpointError(
            f"{other} has {counts[other]} classes, {prefixes[0]} has {counts[prefixes[0]]}: "
            "checkpoints are compared class by class"
        )


def _block_counts(names: Iterable[str]) -> tuple[int, ...]:
    """Number of blocks in each stage, counted by the names of their first kernels."""
    stages = [match[1] for match in map(_BLOCK_KERNEL.match, names) if match]
    return tuple(stages.count(stage) for stage in sorted(set(stages)))


def restore(
    prefix: str | Path,
    variables: Mapping[str, tf.Variable],
    skip: Sequence[str] = (),
    average: bool = False,
) -> Checkpoint:
    """Assigns every tensor of a checkpoint to the variable of the same name.

    Args:
      variables: checkpoint name -> variable.
      skip: patterns (`*` matches anything, `/` too) of variables to leave as they are and of
        tensors to ignore.
      average: assign the moving averages of the weights instead of the weights.

    Returns the checkpoint.

    Raises CheckpointError, which lists all differences, if a variable is missing from the
    checkpoint, a tensor has no variable, or shapes differ; then no variable is changed.
    """
    checkpoint = read(prefix, average)
    wanted = {name: tuple(variables[name].shape) for name in not_matching(variables, skip)}
    held = {name: checkpoint.shapes[name] for name in not_matching(checkpoint.shapes, skip)}
    heads = [next((n for n in HEADS if n in names), "") for names in (checkpoint.shapes, wanted)]
    if all(heads) and heads[1] not in checkpoint.shapes:
        raise OtherTaskError(_heads_differ(checkpoint.prefix, *heads))
    depths = [_DEPTHS.get(_block_counts(names)) for names in (held, wanted)]
    if all(depths) and depths[0] != depths[1]:
        raise CheckpointError(_depths_differ(checkpoint.prefix, *depths))
    widths = [
        shapes[kernel_name(STEM)][-1] for shapes in (held, wanted) if kernel_name(STEM) in shapes
    ]
    if len(set(widths)) == 2:
        raise CheckpointError(_widths_differ(checkpoint.prefix, *widths))
    head = heads[1]
    if head in held and held[head] != wanted[head]:
        counts = (shapes[head][0] - HEADS[head] for shapes in (held, wanted))
        raise CheckpointError(_classes_differ(checkpoint.prefix, *counts))
    compare(f"checkpoint {checkpoint.prefix}", wanted, held)
    values = {name: checkpoint.tensor(name) for name in wanted}
    for name, value in values.items():
        variables[name].assign(value.astype(variables[name].dtype.as_numpy_dtype, copy=False))
    return checkpoint


def not_matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that match none of the patterns."""
    return [name for name in names if not matches(name, patterns)]


def compare(source: str, wanted: Mapping[str, tuple], held: Mapping[str, tuple]) -> None:
    """Compares two mappings of name -> shape: `wanted`, and `held` by the file `source`.

    Raises one CheckpointError that lists all missing, extra and differently shaped tensors.
    """
    differ = [n for n in wanted if n in held and wanted[n] != held[n]]
    shapes = [f"{n} {list(held[n])} instead of {list(wanted[n])}" for n in differ]
    problems = {
        "missing": [n for n in wanted if n not in held],
        "extra": [n for n in held if n not in wanted],
        "of another shape": shapes,
    }
    listed = [f"{len(n)} {kind}: {first_few(n)}" for kind, n in problems.items() if n]
    if listed:
        raise CheckpointError(f"{source} does not fit: {'; '.join(listed)}")


def _heads_differ(prefix: str, held: str, wanted: str) -> str:
    return (
        f"checkpoint {prefix} is of another task: it has {held}, not {wanted}; to train from its "
        "weights, give it as --pretrain_ckpt, and another --model_dir"
    )


def _classes_differ(prefix: str, held: int, wanted: int) -> str:
    return f"checkpoint {prefix} has {held} classes, --class_num is {wanted}"


def _widths_differ(prefix: str, held: int, wanted: int) -> str:
    return f"checkpoint {prefix} has width {held}, --width is {wanted}: give --width={held}"


def _depths_differ(prefix: str, held: int, wanted: int) -> str:
    return f"checkpoint {prefix} has depth {held}, --resnet_size is {wanted}"


def find(path: str | Path) -> str:
    """The prefix of a checkpoint; `path` is a prefix, one of its files, or a folder.

    For a folder, it is the checkpoint that was saved last.

    Raises CheckpointError when there is no checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        prefix = CheckpointFolder(path).latest()
        if prefix is None:
            for other in sorted(path.iterdir()):
                _refuse_other_formats(other)
            raise CheckpointError(f"no checkpoint in folder {path}")
        return prefix
    prefix = _FILE_SUFFIX.sub("", str(path))
    if Path(f"{prefix}.index").is_file():
        return prefix
    _refuse_other_formats(path)
    others = ", ".join(p.name for p in files_of(prefix))
    if not others:
        missing = f"no checkpoint {path}: no such folder, and no file {prefix}.index"
        released = path.name.startswith(_RELEASED)
        hint = " (checkpoints/README.md says where to get it)" if released else ""
        raise CheckpointError(missing + hint)
    raise CheckpointError(f"no checkpoint {path}: {prefix}.index is missing (found: {others})")


def _refuse_other_formats(path: Path) -> None:
    """Raises CheckpointError, which says how to convert it, for weights in another format."""
    if path.suffix in _WEIGHT_SUFFIXES and path.is_file():
        raise CheckpointError(
            f"{path} is not a TensorFlow checkpoint: convert it with python export.py"
            f" --import_weights={path} --result=out/imported/model.ckpt-0, and use the result"
        )
    if path.is_file() and _ends_with(path, _V1_END):
        raise CheckpointError(
            f"{path} is in TensorFlow's old V1 format: restore it with TensorFlow and save it again"
            " with tf.compat.v1.train.Saver(), which writes V2 (.index and .data files)"
        )


def _ends_with(path: Path, end: bytes) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - len(end)))
        return file.read() == end
