"""Walks folders of images: follows links, skips hidden and system files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data.common.images import IMAGE_SUFFIXES

_SYSTEM = {  # of macOS, Windows, Linux, and the stores of Synology and QNAP; hidden ones besides
    *("__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "recycler", "lost+found"),
    *("system volume information", "@eadir", "#recycle", "#snapshot", "@recycle"),
}


def images_below(folder: str | os.PathLike, passed_over: Counter[str]) -> Iterator[str]:
    """Paths of the images below a folder, each folder's entries in order of name.

    Links are followed, but not to a folder that is being walked.

    Args:
      passed_over: counts what is no image by its name, by suffix, and what systems leave
        (`.ipynb_checkpoints`, `__MACOSX`, ...), by name.
    """
    return _walk(os.fspath(folder), passed_over, (os.path.realpath(folder),))


def subfolders(folder: Path, passed_over: Counter[str]) -> list[Path]:
    """The folders in a folder, links among them, without those that systems leave; by name.

    Args:
      passed_over: counts what systems leave, by name, and the files, as one kind.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if _is_system(str(path), passed_over):
            continue
        if path.is_dir():
            found.append(path)
        else:
            passed_over["files next to the folders"] += 1
    return found


def _walk(folder: str, passed_over: Counter[str], above: tuple[str, ...]) -> Iterator[str]:
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if _is_system(path, passed_over):
            continue
        if os.path.isdir(path):
            real = os.path.realpath(path)
            if real in above:
                passed_over["links to a folder above them"] += 1
            else:
                yield from _walk(path, passed_over, (*above, real))
        elif not name.lower().endswith(IMAGE_SUFFIXES):
            passed_over[os.path.splitext(name)[1].lower() or name] += 1
        elif not os.path.exists(path):
            passed_over["links to nothing"] += 1
        else:
            yield path


def _is_system(path: str, passed_over: Counter[str]) -> bool:
    name = os.path.basename(path)
    is_system = name.startswith(".") or name.lower() in _SYSTEM
    if is_system:
        passed_over["._*" if name.startswith("._") else name] += 1
    return is_system
