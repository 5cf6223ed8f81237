"""Entry-point helpers of the root scripts: strict flag parsing and one-line user errors.

Imported after flags.py, which defines the flags, and before TensorFlow, so that --help does not
import it, and its environment variables are set first.
"""

import dataclasses
import difflib
import logging as standard_logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import app, flags, logging

from data.common import command, flag_groups, mirror, output_lock
from data.common.errors import UserError
from data.common.progress import LogHandler

FLAGS = flags.FLAGS
Options = TypeVar("Options")
# In addition to a run's folders and --result, which depend on the script.
_OPENED = {
    **dict.fromkeys(("draw_dir", "export_dir", "masks_dir"), mirror.open_folder),
    **dict.fromkeys(("fit_thresholds", "page"), mirror.open_file),
    **dict.fromkeys(("compare", "dictionary", "import_weights"), mirror.open_input),
    **dict.fromkeys(("pretrain_ckpt", "supported_classes", "threshold_file"), mirror.open_input),
    **dict.fromkeys(("cache_dir", "images_dir", "scratch_dir"), mirror.refuse),
}
HELP = ("--help", "-help", "-h", "-?", "--helpfull", "--helpshort")


def _script() -> str:
    """The file name of the script that was started, with links resolved."""
    return Path(sys.argv[0]).resolve().name


if _script() in flag_groups.DEFAULTS:
    command.prepare()
    if set(HELP) & set(sys.argv[1:]):
        print(flag_groups.help_text(_script(), sys.modules["__main__"].__doc__ or ""), end="")
        sys.exit(0)

from data.common import start_tensorflow  # noqa: F401 - after the help


def from_flags(cls: type[Options], **values: Any) -> Options:
    """Builds the dataclass `cls` from `values` and, for its other fields, same-named flags.

    A field whose default is a dataclass is built in the same way.
    """
    for field in dataclasses.fields(cls):
        if field.name not in values and field.name in FLAGS:
            values[field.name] = FLAGS[field.name].value
        elif field.name not in values and dataclasses.is_dataclass(field.default):
            values[field.name] = from_flags(type(field.default))
    return cls(**values)


def values(*names: str) -> dict[str, Any]:
    """The values of these flags, by name; URLs as the user gave them."""
    found = {name: FLAGS[name].value for name in names}
    return {name: mirror.shown(x) if isinstance(x, str) else x for name, x in found.items()}


def given(*names: str) -> dict[str, Any]:
    """The values of these flags if they are on the command line; None for the others."""
    return {name: FLAGS[name].value if FLAGS[name].present else None for name in names}


def numbers(name: str) -> tuple[float, ...]:
    """The values of a list flag as numbers. Raises UserError unless all are above 0."""
    given = FLAGS[name].value
    try:
        found = tuple(map(float, given))
    except ValueError:
        found = ()
    if not found or min(found) <= 0:
        raise UserError(f"--{name}={','.join(given)}: use numbers above 0, such as 0.5,1,2")
    return found


def set_defaults(values: Mapping[str, Any]) -> None:
    """Sets flags that are not on the command line to these values."""
    for name, value in values.items():
        if not FLAGS[name].present:
            FLAGS[name].value = value


def as_dict(**others: Any) -> dict[str, Any]:
    """The flags that the script reads, to store next to a checkpoint; `others` override them."""
    return values(*flag_groups.names_of(_script())) | others


def flag_file() -> str:
    """The flags on the command line, as a file for --flagfile; the others as comments."""
    flags_read = [FLAGS[name] for name in flag_groups.names_of(_script())]
    given = [flag.serialize() for flag in flags_read if flag.present]
    others = [flag.serialize() for flag in flags_read if not flag.present]
    lines = [
        f"# A run of {_script()}; --flagfile=THIS_FILE repeats it. For another run, name another",
        "# --model_dir and --log_dir behind that.",
        *given,
        "# Values that were not given:",
        *(f"# {line}" for text in others for line in text.splitlines()),
    ]
    return mirror.shown("".join(f"{line}\n" for line in lines))


def run(main: Callable[[], int | None], files: str | None = None) -> None:
    """Parses flags strictly and runs `main`; user mistakes end with one line and exit code 1.

    `files` names the list flag to which arguments without a dash are added; None refuses them.

    `UserError`, and files that are missing or inaccessible, are user mistakes; other exceptions
    keep their traceback.
    """
    script = _script()
    for name, value in flag_groups.DEFAULTS[script].items():
        FLAGS.set_default(name, value)
    FLAGS.set_gnu_getopt(True)  # flags may follow arguments
    app.run(
        lambda argv: _run_checked(main, files, argv),
        flags_parser=lambda argv: _parse(script, argv),
    )


def _parse(script: str, argv: Sequence[str]) -> list[str]:
    """Sets the flags; returns the arguments without a dash. A mistake ends the process."""
    try:
        arguments = FLAGS(argv)
        _refuse_others_flags(script)
        _refuse_infinite(script)
        return arguments
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        near = difflib.get_close_matches(name, flag_groups.names_of(script), n=1)
        instead = [f"did you mean --{near[0]}?"] if near else []
        mistake = ": ".join([f"unknown flag --{name}", *instead])
    except flags.Error as error:
        mistake = str(error).removeprefix("ERROR:: ")  # absl's, of a flag file
    print(f"error: {mistake} ({script} --help lists all flags)", file=sys.stderr)
    sys.exit(1)


def _refuse_others_flags(script: str) -> None:
    """Raises a flag error for a flag that this script does not read, and names scripts that do."""
    for group in flag_groups.GROUPS:
        for name in group.names:
            if script not in group.scripts and FLAGS[name].present:
                readers = ", ".join(group.scripts)
                raise flags.Error(f"{script} does not read --{name}; it is a flag of {readers}")


def _refuse_infinite(script: str) -> None:
    """Raises a flag error for nan and inf, which no bound of a flag refuses."""
    for name in flag_groups.names_of(script):
        value = FLAGS[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise flags.Error(f"--{name}={value}: give a finite number")


def _set_up_logging() -> None:
    """Logs to the standard error stream, in short lines that do not mix with progress bars."""
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().setLevel(standard_logging.CRITICAL + 1)  # our handler writes instead
    for library in ("aiobotocore", "botocore"):  # for s3://: every process logs finding the server
        standard_logging.getLogger(library).setLevel(standard_logging.WARNING)
    root = standard_logging.getLogger()
    if not any(isinstance(handler, LogHandler) for handler in root.handlers):
        root.addHandler(LogHandler())


@command.one_line_errors()
def _run_checked(
    main: Callable[[], int | None], files: str | None, argv: Sequence[str]
) -> int | None:
    _set_up_logging()
    if files:
        FLAGS[files].value = [*FLAGS[files].value, *argv[1:]]
    elif len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: flags look like --name=value")
    for name, instead in flag_groups.WITHOUT_EFFECT.items():
        if FLAGS[name].present:
            logging.warning("--%s has no effect (%s)", name, instead)
    _open_urls(_script())
    return output_lock.run(main)


def _open_urls(script: str) -> None:
    """Replaces the URLs of results and of small inputs by paths in the working copy."""
    names = flag_groups.names_of(script)
    trains = "max_iter" in names and FLAGS["mode"].value == "train"
    results = FLAGS["result"].default or ""
    opened = {
        "model_dir": mirror.open_folder if trains else mirror.open_input,
        "log_dir": mirror.open_folder if trains else lambda _, value: value,
        "result": mirror.open_folder if results.endswith("/") else mirror.open_file,
        **_OPENED,
    }
    for name in names:
        if name in opened and FLAGS[name].value:
            FLAGS[name].value = opened[name](name, FLAGS[name].value)
