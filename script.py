"""How root scripts start: flags parsed strictly and handed on, a user's mistake told in a line."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from absl import app, logging

import flags
from flags import FLAGS, WITHOUT_EFFECT

Options = TypeVar("Options")


def fill(cls: type[Options], **values: Any) -> Options:
    """Builds the dataclass `cls` from `values` and, for its other fields, same-named flags."""
    for field in dataclasses.fields(cls):
        if field.name not in values and field.name in FLAGS:
            values[field.name] = FLAGS[field.name].value
    return cls(**values)


def take(values: Mapping[str, Any]) -> None:
    """Gives flags that the command line does not name these values."""
    for name, value in values.items():
        if not FLAGS[name].present:
            FLAGS[name].value = value


def as_dict() -> dict[str, Any]:
    """Every flag of flags.py with its value, for the record that is kept beside a checkpoint."""
    return {flag.name: flag.value for flag in FLAGS.get_key_flags_for_module(flags.__name__)}


def run(main: Callable[[], int | None], files: str | None = None, **defaults: Any) -> None:
    """Parses the flags strictly and runs `main`; a user's mistake ends in one line, exit code 1.

    `files` names the list flag to which arguments without a dash are added; None refuses them.
    `defaults` are the script's own where they differ from those of flags.py.

    The project's own error classes, and files that are missing or refuse access, are a user's
    mistakes; whatever else is raised keeps its traceback.
    """
    for flag in FLAGS.get_key_flags_for_module(flags.__name__):
        FLAGS.register_key_flag_for_module(sys.argv[0], flag)  # --help lists them
    for name, value in defaults.items():
        FLAGS.set_default(name, value)
    FLAGS.set_gnu_getopt(True)  # flags may follow arguments
    app.run(lambda argv: _run_checked(main, files, argv))


def _run_checked(
    main: Callable[[], int | None], files: str | None, argv: Sequence[str]
) -> int | None:
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    try:
        if files:
            FLAGS[files].value = [*FLAGS[files].value, *argv[1:]]
        elif len(argv) > 1:
            raise app.UsageError(f"unexpected argument {argv[1]!r}: flags look like --name=value")
        for name, instead in WITHOUT_EFFECT.items():
            if FLAGS[name].present:
                logging.warning("--%s has no effect (%s)", name, instead)
        code = main()
        sys.stdout.flush()  # a full disk is an error now, not at the exit
        return code
    except (ValueError, OSError) as error:
        ours = type(error).__module__.split(".")[0] in ("data", "models")
        if not (ours or isinstance(error, OSError)):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
