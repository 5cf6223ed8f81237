"""Checkpoints of this network: what they hold, whether they fit, and the folder of a training run.

The format itself is in files.py; `read`, `save` and `Checkpoint` come from there.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from models.architecture import BLOCKS, DENSE_BIAS, STEM, kernel_name
from models.backbones import RESNET
from models.checkpoints import list_file
from models.checkpoints.files import (
    AVERAGE,
    MOMENTUM,
    Checkpoint,
    CheckpointError,
    files_of,
    read,
    remove,
    save,
    save_meta,
    some,
    versions,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointFolder",
    "Description",
    "read",
    "save",
    "versions",
]

GLOBAL_STEP = "global_step"
# What a training run stores besides the network: skipped when only the network is wanted.
TRAINING_STATE = (f"*{MOMENTUM}", f"*{AVERAGE}", GLOBAL_STEP, "Variable", "Variable_1")

_WEIGHT_FILES = (".h5", ".hdf5", ".keras", ".npz", ".pt", ".pth", ".safetensors")
_V1_END = bytes.fromhex("57fb808b247547db")  # the magic number of the tables of LevelDB
_FILE_SUFFIX = re.compile(r"\.(index|meta|json|data-\d{5}-of-\d{5})$")
_OWN_NAME = "model.ckpt-"
_OWN_FILE = re.compile(r"(model\.ckpt-\d+)(\.tmp-\d+)?\.(index|meta|json|data-\d{5}-of-\d{5}.*)")
_BLOCK_KERNEL = re.compile(r"stages_(\d)_block_\d+/conv1_b2/conv2d/kernel$")
_DEPTHS = {blocks: depth for depth, blocks in BLOCKS.items()}


class Description(NamedTuple):
    """What a checkpoint says of its network. `step` is None where it holds no `global_step`."""

    prefix: str
    backbone: str
    resnet_size: int
    class_num: int
    width: int
    step: int | None
    has_momentum: bool
    has_average: bool

    def agree(self, resnet_size: int | None = None, class_num: int | None = None) -> "Description":
        """Itself; CheckpointError naming both numbers when a flag (None: not given) differs."""
        if class_num not in (None, self.class_num):
            raise CheckpointError(_classes_differ(self.prefix, self.class_num, class_num))
        if resnet_size not in (None, self.resnet_size):
            raise CheckpointError(_depths_differ(self.prefix, self.resnet_size, resnet_size))
        return self


def describe(prefix: str | Path) -> Description:
    """Backbone, depth, class count, width and step.

    A ResNet's are read from names and shapes alone, those of another backbone from the flags in
    the JSON next to the checkpoint.

    Raises CheckpointError for a checkpoint of something else.
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
    """Depth, class count and width, of the names and shapes that `source` holds.

    Raises CheckpointError when they are not those of this network.
    """
    absent = [name for name in (kernel_name(STEM), DENSE_BIAS) if name not in shapes]
    if absent:
        raise CheckpointError(
            f"{source} does not hold this network: it has no {absent[0]}, but {some(shapes)}"
        )
    counts = _block_counts(shapes)
    if counts not in _DEPTHS:
        raise CheckpointError(f"{source} has {counts} blocks: none of the depths {list(BLOCKS)}")
    return _DEPTHS[counts], shapes[DENSE_BIAS][0], shapes[kernel_name(STEM)][-1]


def check_same_classes(prefixes: Sequence[str]) -> None:
    """Raises CheckpointError unless the checkpoints have one number of classes."""
    counts = {prefix: describe(prefix).class_num for prefix in prefixes}
    other = next((p for p in prefixes if counts[p] != counts[prefixes[0]]), None)
    if other:
        raise CheckpointError(
            f"{other} has {counts[other]} classes, {prefixes[0]} has {counts[prefixes[0]]}: "
            "checkpoints are compared class by class"
        )


def _block_counts(names: Iterable[str]) -> tuple[int, ...]:
    """How many blocks each stage has, known from the names of its kernels."""
    stages = [match[1] for match in map(_BLOCK_KERNEL.match, names) if match]
    return tuple(stages.count(stage) for stage in sorted(set(stages)))


def restore(
    prefix: str | Path,
    variables: Mapping[str, tf.Variable],
    skip: Sequence[str] = (),
    average: bool = False,
) -> Checkpoint:
    """Assigns every tensor of a checkpoint to the variable of its name; returns the checkpoint.

    Names that match a pattern in `skip` (`*` matches anything, `/` too) are left alone on both
    sides. Nothing is assigned, and one CheckpointError lists all of them, when a variable is
    missing from the checkpoint, a tensor has no variable, or shapes differ.
    """
    checkpoint = read(prefix, average)
    wanted = {name: tuple(variables[name].shape) for name in unskipped(variables, skip)}
    held = {name: checkpoint.shapes[name] for name in unskipped(checkpoint.shapes, skip)}
    depths = [_DEPTHS.get(_block_counts(names)) for names in (held, wanted)]
    if all(depths) and depths[0] != depths[1]:
        raise CheckpointError(_depths_differ(checkpoint.prefix, *depths))
    stems = [
        shapes[kernel_name(STEM)][-1] for shapes in (held, wanted) if kernel_name(STEM) in shapes
    ]
    if len(set(stems)) == 2:
        raise CheckpointError(_widths_differ(checkpoint.prefix, *stems))
    theirs, ours = held.get(DENSE_BIAS), wanted.get(DENSE_BIAS)
    if theirs and ours and theirs != ours:
        raise CheckpointError(_classes_differ(checkpoint.prefix, *theirs, *ours))
    compare(f"checkpoint {checkpoint.prefix}", wanted, held)
    values = {name: checkpoint.tensor(name) for name in wanted}
    for name, value in values.items():
        variables[name].assign(value.astype(variables[name].dtype.as_numpy_dtype, copy=False))
    return checkpoint


def unskipped(names: Iterable[str], skip: Sequence[str]) -> list[str]:
    """The names that match no pattern in `skip`."""
    return [n for n in names if not any(fnmatch.fnmatchcase(n, pattern) for pattern in skip)]


def compare(source: str, wanted: Mapping[str, tuple], held: Mapping[str, tuple]) -> None:
    """Raises one CheckpointError that lists how names and shapes in `source` differ."""
    differ = [n for n in wanted if n in held and wanted[n] != held[n]]
    shapes = [f"{n} {list(held[n])} instead of {list(wanted[n])}" for n in differ]
    problems = {
        "missing": [n for n in wanted if n not in held],
        "extra": [n for n in held if n not in wanted],
        "of another shape": shapes,
    }
    found = [f"{len(names)} {kind}: {some(names)}" for kind, names in problems.items() if names]
    if found:
        raise CheckpointError(f"{source} does not fit: " + "; ".join(found))


def _classes_differ(prefix: str, held: int, wanted: int) -> str:
    return f"checkpoint {prefix} has {held} classes, --class_num is {wanted}"


def _widths_differ(prefix: str, held: int, wanted: int) -> str:
    return f"checkpoint {prefix} is of width {held}, --width is {wanted}: give --width={held}"


def _depths_differ(prefix: str, held: int, wanted: int) -> str:
    return f"checkpoint {prefix} is of depth {held}, --resnet_size is {wanted}"


def find(path: str | Path) -> str:
    """The prefix that `path` means: a prefix, one of a checkpoint's files, or a folder's latest.

    Raises CheckpointError when there is none.
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
    if _is_complete(prefix):
        return prefix
    _refuse_other_formats(path)
    others = [p.name for p in files_of(prefix)] or "nothing of that name is there"
    raise CheckpointError(f"no checkpoint {path}: {prefix}.index is missing ({others})")


def _refuse_other_formats(path: Path) -> None:
    """Raises the CheckpointError that says how a file with weights becomes a checkpoint."""
    if path.suffix in _WEIGHT_FILES and path.is_file():
        raise CheckpointError(
            f"{path} is no checkpoint of TensorFlow: make one of it with python export.py"
            f" --import_weights={path} --result=out/imported/model.ckpt-0, and give that"
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


def _is_complete(prefix: str | Path) -> bool:
    return Path(f"{prefix}.index").is_file()


class CheckpointFolder:
    """The checkpoints `model.ckpt-STEP` of one run, and the file `checkpoint` that lists them.

    `max_to_keep` 0 keeps all; files of another name are never deleted. Only the process that trains
    may call `save`, which also removes what a run killed while saving has left.
    """

    def __init__(self, model_dir: str | Path, max_to_keep: int = 0) -> None:
        self.model_dir, self.max_to_keep = Path(model_dir), max_to_keep

    def all(self) -> list[str]:
        """Prefixes of whole checkpoints, the most recently saved last.

        Those the list file does not name (it is written after the checkpoint) go by their step.
        """
        names = {path.stem for path in self.model_dir.glob("*.index") if ".tmp-" not in path.name}
        entries, may_lack = list_file.read(self.model_dir)
        listed = [name for name in entries if name in names]
        unlisted = sorted(names.difference(listed), key=_step_of)
        newer = [n for n in unlisted if listed and _step_of(n) > _step_of(listed[-1])] * may_lack
        older = [n for n in unlisted if n not in newer]
        return [str(self.model_dir / name) for name in older + listed + newer]

    def latest(self) -> str | None:
        """Prefix of the most recently saved checkpoint, None when there is none."""
        return next(reversed(self.all()), None)

    def save(self, step: int, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
        """Saves `model.ckpt-{step}` (see `save`), lists it, deletes the oldest above the limit."""
        self._remove_unfinished()
        prefix = save(self.model_dir / f"{_OWN_NAME}{step}", tensors, meta)
        everything = [other for other in self.all() if other != prefix] + [prefix]
        own = [other for other in everything if _OWN_FILE.fullmatch(f"{Path(other).name}.index")]
        surplus = own[: -self.max_to_keep] if self.max_to_keep else []
        list_file.write(self.model_dir, [Path(p).name for p in everything if p not in surplus])
        for old in surplus:
            remove(old)
        return prefix

    def save_meta(self, step: int, meta: Mapping[str, Any]) -> None:
        """Replaces the JSON next to `model.ckpt-{step}`."""
        save_meta(self.model_dir / f"{_OWN_NAME}{step}", meta)

    def _remove_unfinished(self) -> None:
        whole = set(self.all())
        for path in self.model_dir.glob(f"{_OWN_NAME}*"):
            own = _OWN_FILE.fullmatch(path.name)
            if own and (own[2] or str(self.model_dir / own[1]) not in whole):
                path.unlink(missing_ok=True)
        for path in self.model_dir.glob(".*.tmp"):
            if path.name.startswith((f".{_OWN_NAME}", f".{list_file.NAME}.")):
                path.unlink(missing_ok=True)


def _step_of(name: str) -> int:
    digits = re.search(r"\d+$", name)
    return int(digits[0]) if digits else -1
