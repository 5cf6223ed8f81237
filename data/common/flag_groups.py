"""Flags in groups: which root script reads which, with which defaults, and its --help.

flags.py fills the table when it is imported. Nothing here imports TensorFlow.
"""

import textwrap
from collections.abc import Mapping
from typing import NamedTuple

from absl import flags

FLAGS = flags.FLAGS
TABLE = "flags"
"""The module that defines the flags of the root scripts."""


class Group(NamedTuple):
    """Flags of one subject, by name, and the scripts that read them."""

    title: str
    scripts: tuple[str, ...]
    names: list[str]


GROUPS: list[Group] = []
DEFAULTS: dict[str, Mapping[str, object]] = {}
"""Root script -> its own defaults, which replace those of the flags."""
WITHOUT_EFFECT: dict[str, str] = {}
"""Flags that every script accepts and none reads, with what to say about them."""


def _grouped() -> None:
    """Adds the flags defined since the last call to the open group."""
    known = {name for group in GROUPS for name in group.names}
    defined = (flag.name for flag in FLAGS.flags_by_module_dict().get(TABLE, []))
    new = [name for name in defined if name not in known]
    if new:
        GROUPS[-1].names.extend(new)


def open_group(title: str, *scripts: str) -> None:
    """Opens a group: the flags that flags.py defines from here on are read by these scripts."""
    _grouped()
    GROUPS.append(Group(title, scripts, []))


def close_groups(
    defaults: Mapping[str, Mapping[str, object]], without_effect: Mapping[str, str]
) -> None:
    """Ends the last group; flags that are defined from here on are in none."""
    _grouped()
    DEFAULTS.update(defaults)
    WITHOUT_EFFECT.update(without_effect)


ENVIRONMENT = """
Environment variables:
  TF_NUM_INTRAOP_THREADS, OMP_NUM_THREADS: threads of TensorFlow, and of its convolutions
  CUDA_VISIBLE_DEVICES: the GPUs that the script sees
  TF_ENABLE_ONEDNN_OPTS=0: convolutions without oneDNN
  TF_CPP_MIN_LOG_LEVEL=0: the messages of TensorFlow itself

--flagfile=FILE reads flags from a file, one a line.
"""
"""What --help ends with for every root script."""


def names_of(script: str) -> list[str]:
    """The flags that a root script reads."""
    return [name for group in GROUPS if script in group.scripts for name in group.names]


def help_text(script: str, about: str) -> str:
    """What `script` --help prints: the script's docstring `about`, then its own flags by group."""
    lines = [about.strip()]
    for group in GROUPS:
        if script in group.scripts:
            lines += ["", f"{group.title}:"]
            lines += [_help_of(name, DEFAULTS[script]) for name in group.names]
    return "\n".join(lines) + "\n" + ENVIRONMENT


def _help_of(name: str, defaults: Mapping[str, object]) -> str:
    flag = FLAGS[name]
    default = defaults.get(name, flag.default)
    default = f"{default:.4g}" if isinstance(default, float) else default
    shown = "" if default in (None, []) else f" (default: {default})"
    text = f"--{name}: {flag.help}{shown}"
    return textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="      ")
