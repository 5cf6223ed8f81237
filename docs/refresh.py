"""Writes docs/flags.md from flags.py.

python docs/refresh.py           rewrites it
python docs/refresh.py --check   only says whether it is up to date (the tests do this)
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import flags
from data.common import flag_groups

FLAGS_PAGE = ROOT / "docs" / "flags.md"
FLAGS_INTRODUCTION = """# Flags

Every flag of the root scripts, with the scripts that read it, written by `python docs/refresh.py`
from `flags.py`. `--help` after one of them lists its own flags. A flag of another script, or a
misspelled one, stops a script. Defaults that a script has of its own are in `DEFAULTS` of
`flags.py`. The scripts below `data/` have their own flags: `--help`.

**Recipes as files.** `--flagfile=FILE` takes flags from a file: one a line, as on the command line;
empty lines and those that begin with `#` or `//` are skipped. A later flag overrides an earlier
one, so what follows `--flagfile` changes the recipe. The file may name another by a line
`--flagfile=OTHER`. Flags in it are checked as on the command line. A training run writes the flags
that it was given into `flags.txt` in `--log_dir`, all other values in comments. This repeats it:

```bash
python train.py --flagfile=out/log/flags.txt --model_dir=again/checkpoints --log_dir=again/log
```

In the scripts of `example/`, the values of a recipe are the flags that they name; yours are added
after them: `example/train.sh --flagfile=mine.txt`, with

```
# For a small machine.
--batch_size=32
--resnet_size=50
--max_iter=100000
```

**Logs of several runs.** `python data/plot_training.py --log_dir A B C --output compared.png` draws
the curves of several runs in one plot, and TensorBoard shows the runs below a folder, each with its
flags as a text. With `--tracker=mlflow` (`pip install -e ".[mlflow]"`) the numbers of
`training.jsonl` also go to MLflow, with the flags as parameters, from the first process alone. They
are in `mlflow.db` of `--log_dir`; MLFLOW_TRACKING_URI names a database for several runs
(`sqlite:////data/runs.db`) or a server, MLFLOW_EXPERIMENT_NAME another experiment than `ml-images`.
`pip install mlflow` and `mlflow ui --backend-store-uri sqlite:///out/log/mlflow.db` show it. A
training that is resumed continues its run (`tracker.json` has its id). Steps after the checkpoint
that a killed run had sent stay as they are in MLflow, once, while `training.jsonl` has the resumed
run's; with `--deterministic` they are equal. A tracker that fails or hangs is one warning, and
training continues.
"""

_CHOICES_IN_HELP = re.compile(r"^<[^>]*>: ")  # absl puts them before the help of an enum


def flags_page() -> str:
    """The text of docs/flags.md."""
    parts = [FLAGS_INTRODUCTION]
    for title, scripts, names in flag_groups.GROUPS:
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if stale")
    check = parser.parse_args(argv).check
    text = flags_page()
    if FLAGS_PAGE.exists() and FLAGS_PAGE.read_text(encoding="utf-8") == text:
        return 0
    if check:
        print("docs/flags.md is stale: run python docs/refresh.py", file=sys.stderr)
        return 1
    FLAGS_PAGE.write_text(text, encoding="utf-8")
    print("wrote docs/flags.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
