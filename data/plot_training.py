"""Draws the curves of a training run from the `training.jsonl` of its log folder.

python data/plot_training.py --log_dir out/log --output curves.png
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.pages import PageError, panels, write_figure

RECORD = "training.jsonl"
TRAINING_PANELS = {
    "loss": "training loss",
    "rate": "learning rate",
    "images_per_second": "images/s",
}
Curve = tuple[list[int], list[float]]


def read_curves(path: Path) -> dict[str, dict[str, Curve]]:
    """The numbers of a run: kind (train, val) -> name -> (steps, values).

    Raises:
        PageError: no such file, or a line that is not a record.
    """
    curves: dict[str, dict[str, Curve]] = {}
    if not path.is_file():
        raise PageError(f"{path}: no such file; train.py writes it into its --log_dir")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            step, kind = record.pop("step"), record.pop("kind")
        except (ValueError, KeyError, AttributeError) as error:
            raise PageError(f"{path}:{number}: not a record of a training run") from error
        for name, value in record.items():
            steps, values = curves.setdefault(kind, {}).setdefault(name, ([], []))
            steps.append(step)
            values.append(value)
    return curves


def plot(curves: dict[str, dict[str, Curve]], output: Path) -> None:
    """Writes a PNG with a panel for each training number shown and each validation metric."""
    train = curves.get("train", {})
    shown = [
        (title, *train[name], "tab:blue")
        for name, title in TRAINING_PANELS.items()
        if name in train
    ]
    shown += [
        (f"held-out {name}", *curve, "tab:orange") for name, curve in curves.get("val", {}).items()
    ]
    if not shown:
        raise PageError("the run has recorded nothing yet")
    figure, axes = panels(len(shown))
    for axis, (title, steps, values, colour) in zip(axes, shown, strict=True):
        axis.plot(
            steps, values, marker="o" if len(steps) < 40 else None, markersize=3, color=colour
        )
        axis.set(title=title, xlabel="step")
    write_figure(output, figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log_dir", type=Path, default=Path("out/log"), help="of the training run")
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    arguments = parser.parse_args(argv)
    try:
        plot(read_curves(arguments.log_dir / RECORD), arguments.output)
    except (PageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
