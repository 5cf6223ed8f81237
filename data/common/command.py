"""How a script meets the system around it: text as UTF-8, output that nobody reads, Ctrl-C."""

import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from data.common.launcher import LauncherError, this_process

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells report it."""


class _Output(io.FileIO):
    """A standard output; once nobody reads it (`| head`), what is written goes nowhere."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except BrokenPipeError:
            _discard(self.fileno())
            return len(data)


def _discard(descriptor: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _open_closed() -> None:
    """Standard streams that are closed (`2>&-`) lead nowhere.

    Else a file would be opened in their place, and what libraries print would get into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def prepare() -> None:
    """Makes text UTF-8 whatever the locale, and printing safe; at the start of a script.

    Lists, dictionaries and file names are UTF-8. In a locale of another encoding Python would take
    them for that, so the script starts anew in Python's UTF-8 mode.
    """
    _open_closed()
    output = sys.stdout
    if output is not sys.__stdout__:
        return  # within another program
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    raw = _Output(output.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=output.encoding,
        errors="backslashreplace",  # names that are no UTF-8
        line_buffering=output.line_buffering or output.write_through,
    )


def flush() -> None:
    """Writes what was printed: a full disk is an error now, not at the exit.

    Raises:
        OSError: it cannot be written, and no longer is.
    """
    try:
        sys.stdout.flush()
    except OSError:
        _discard(sys.stdout.fileno())
        raise


def run(main: Callable[[], int], shares_work: bool = False) -> NoReturn:
    """Runs the `main` of a script and ends with its exit code.

    Args:
        shares_work: several processes may be started, which find their parts by themselves.
    """
    prepare()
    try:
        process = this_process()
    except LauncherError as error:
        sys.exit(f"error: {error}")
    if process.size > 1 and not shares_work:
        script = os.path.basename(sys.argv[0])
        sys.exit(
            f"error: {process.launcher} started {process.size} processes, and each would do all"
            f" of the work: start {script} alone"
        )
    try:
        code = main()
        flush()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = INTERRUPTED
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)
