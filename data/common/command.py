"""Helpers for entry points: UTF-8 streams, one-line user errors, exit codes, Ctrl-C."""

import argparse
import functools
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from data.common import mirror
from data.common.errors import UserError
from data.common.processes import are_joined, end_all, this_process

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells report it."""

_PATH_OF_URL = re.compile(r"^([a-z][a-z0-9+.-]+):/(?!/)", re.IGNORECASE)

Main = Callable[..., int | None]


class _Output(io.FileIO):
    """A standard output that discards writes once its reader has gone (`| head`)."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except BrokenPipeError:
            _discard(self.fileno())
            return len(data)


def _discard(descriptor: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _open_closed() -> None:
    """Redirects closed standard streams (`2>&-`) to the null device.

    Otherwise a file opened later would get their descriptor, and what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def prepare() -> None:
    """Makes text UTF-8 in any locale, and printing safe; call it at the start of a script.

    Lists, dictionaries and file names are UTF-8. In a locale with another encoding, Python would
    decode them by that, so the script restarts in Python's UTF-8 mode.
    """
    _open_closed()
    output = sys.stdout
    if output is not sys.__stdout__:
        return  # inside another program
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    raw = _Output(output.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=output.encoding,
        errors="backslashreplace",  # names that are not UTF-8
        line_buffering=output.line_buffering or output.write_through,
    )


def flush() -> None:
    """Flushes the standard output, so that a full disk is an error now and not at exit.

    Raises:
        OSError: it cannot be written; later output is discarded.
    """
    try:
        sys.stdout.flush()
    except OSError:
        _discard(sys.stdout.fileno())
        raise


def one_line_errors(failed: int = 1, resumes: bool = False) -> Callable[[Main], Callable[..., int]]:
    """Decorates a `main`: its errors become one line on stderr and an exit code.

    Exceptions other than `UserError` and `OSError` are bugs and keep their traceback.

    Args:
        failed: the exit code for user mistakes and for files that cannot be read or written.
        resumes: whether the same command resumes after Ctrl-C.
    """

    def decorate(main: Main) -> Callable[..., int]:
        @functools.wraps(main)
        def checked(*args: Any, **kwargs: Any) -> int:
            try:
                code = main(*args, **kwargs)
                mirror.finish()
                flush()
                return code or 0
            except KeyboardInterrupt:
                print(
                    "stopped; the same command resumes" if resumes else "stopped", file=sys.stderr
                )
                code = INTERRUPTED
            except (UserError, OSError) as error:
                print(f"error: {_line(error)}", file=sys.stderr)
                code = failed
            except Exception:
                if not are_joined():
                    raise
                traceback.print_exc()
                code = 1
            finally:
                mirror.close()
            end_all()
            return code

        return checked

    return decorate


def parse(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    *,
    folders: Iterable[str] = (),
    files: Iterable[str] = (),
    inputs: Iterable[str] = (),
    others: Iterable[str] = (),
) -> argparse.Namespace:
    """The arguments; URLs of outputs and inputs become paths of working copies (mirror.py).

    Args:
        folders, files: arguments that are written and may be URLs.
        inputs: arguments that are read and may be URLs.
        others: arguments that the script handles itself. The rest must not be URLs.

    Raises:
        UserError: an argument must not be a URL, or a URL cannot be read or written.
    """
    args = parser.parse_args(argv)
    opened = dict.fromkeys(folders, mirror.open_folder) | dict.fromkeys(files, mirror.open_file)
    opened |= dict.fromkeys(inputs, mirror.open_input)
    opened |= dict.fromkeys(others, lambda name, value: value)
    for name, value in vars(args).items():
        setattr(args, name, _opened(opened.get(name, mirror.refuse), name, value))
    return args


def _opened(function: Callable[[str, str], str], name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_opened(function, name, item) for item in value]
    if isinstance(value, Path):  # which collapses two slashes into one
        return Path(function(name, _PATH_OF_URL.sub(r"\1://", str(value))))
    return function(name, value) if isinstance(value, str) else value


def _line(error: Exception) -> str:
    """An error message for people; for a file, its name and what is wrong with it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return mirror.shown(f"{os.fsdecode(error.filename)}: {error.strerror}")
    return mirror.shown(str(error))


def run(main: Main, shares_work: bool = False) -> NoReturn:
    """Runs the `main` of a script and ends with its exit code.

    Args:
        shares_work: whether `main` divides the work if a launcher starts several processes.
    """
    prepare()

    @one_line_errors()
    def run_alone() -> int | None:
        process = this_process()
        if process.size > 1 and not shares_work:
            raise UserError(
                f"{process.launcher} started {process.size} processes, and each would do all of"
                f" the work: start {os.path.basename(sys.argv[0])} alone"
            )
        return main()

    sys.exit(run_alone())
