"""Writes the generated parts of the documents: every flag, and the job of every module.

python docs/refresh.py           rewrites docs/flags.md and the list in docs/architecture.md
python docs/refresh.py --check   only tells whether they are up to date (the tests do this)
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import flags

FLAGS_PAGE = ROOT / "docs" / "flags.md"
ARCHITECTURE_PAGE = ROOT / "docs" / "architecture.md"
FLAGS_INTRODUCTION = """# Flags

Every flag of the root scripts, with the scripts that read it, written by `python docs/refresh.py`
from `flags.py`. `--help` after one of them lists its own flags. A flag of another script, or a
misspelled one, stops a script. Defaults that a script has of its own stand in `DEFAULTS` of
`flags.py`. The scripts below `data/` have their own flags: `--help`.
"""
TOPS = ("data", "models")
MODULES_START, MODULES_END = "<!-- modules: docs/refresh.py -->", "<!-- end of modules -->"

_CHOICES_IN_HELP = re.compile(r"^<[^>]*>: ")  # absl puts them before the help of an enum


def flags_page() -> str:
    """The text of docs/flags.md."""
    parts = [FLAGS_INTRODUCTION]
    for title, scripts, names in flags.GROUPS:
        readers = ", ".join(f"`{name}`" for name in scripts)
        parts.append(_flag_table(title, f"{readers}\n\n", names))
    parts.append(_flag_table("Accepted without effect", "", sorted(flags.WITHOUT_EFFECT)))
    return "\n".join(parts)


def _flag_table(title: str, head: str, names: list[str]) -> str:
    rows = "".join(f"| {' | '.join(_flag_cells(name))} |\n" for name in names)
    return f"## {title}\n\n{head}| flag | default | values | meaning |\n|---|---|---|---|\n{rows}"


def _flag_cells(name: str) -> tuple[str, str, str, str]:
    flag = flags.FLAGS[name]
    choices = getattr(flag.parser, "enum_values", None)
    kind = ", ".join(choices) if choices else getattr(flag.parser, "syntactic_help", "")
    kind = "true, false" if flag.boolean else kind
    meaning = _CHOICES_IN_HELP.sub("", flag.help) if choices else flag.help
    meaning = " ".join(meaning.split()).replace("|", "\\|")
    return f"`--{name}`", _default(flag.default), kind, meaning


def _default(value: object) -> str:
    if value is None:
        return ""
    return f"`{value:.4g}`" if isinstance(value, float) else f"`{value}`"


def modules_list() -> str:
    """The list of modules in docs/architecture.md: each with the head of its docstring."""
    parts = []
    packages = [path.parent for top in TOPS for path in ROOT.glob(f"{top}/**/__init__.py")]
    for folder in [ROOT, *sorted(packages)]:
        title = f"{folder.relative_to(ROOT)}/" if folder != ROOT else "Root scripts"
        head = folder / "__init__.py"
        sentence = f"{_summary(head)}\n\n" if head.exists() else ""
        rows = [
            f"| `{path.name}` | {_summary(path)} |\n"
            for path in sorted(folder.glob("*.py"))
            if path.name not in ("__init__.py", "setup.py")
        ]
        parts.append(f"### {title}\n\n{sentence}| module | job |\n|---|---|\n{''.join(rows)}")
    return "\n".join(parts)


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split()).replace("|", "\\|")


def architecture_page() -> str:
    """The text of docs/architecture.md with its list of modules written anew."""
    text = ARCHITECTURE_PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(MODULES_START)
    _, _, after = rest.partition(MODULES_END)
    return f"{before}{MODULES_START}\n{modules_list()}{MODULES_END}{after}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if stale")
    check = parser.parse_args(argv).check
    pages = {FLAGS_PAGE: flags_page(), ARCHITECTURE_PAGE: architecture_page()}
    stale = [
        path
        for path, text in pages.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is stale: run python docs/refresh.py", file=sys.stderr)
        else:
            path.write_text(pages[path], encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
