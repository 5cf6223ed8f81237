"""Plots the training curves in `training.jsonl` of a log folder.

python data/plot_training.py --log_dir out/log --output curves.png
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common import command
from data.common.errors import UserError
from data.common.html_report import panels, write_figure

RECORD = "training.jsonl"
# (kind of record, its number) -> title of the panel
PANELS = {
    ("train", "loss"): "training loss",
    ("train", "rate"): "learning rate",
    ("train", "images_per_second"): "training images/s",
    ("val", "map_macro"): "held-out mAP (mean over classes)",
    ("val", "top_1"): "held-out top-1",
    ("val", "top_5"): "held-out top-5",
}
COLORS = {"train": "tab:blue", "val": "tab:orange"}
FEW_POINTS = 40  # up to here each point is marked
Curve = tuple[list[int], list[float]]
Curves = dict[str, dict[str, Curve]]


def read_curves(path: Path) -> Curves:
    """The numbers of a run: kind (train, val) -> name -> (steps, values).

    Raises:
        UserError: no such file, or a line that is not a record.
    """
    curves: Curves = {}
    if not path.is_file():
        raise UserError(f"{path}: no such file; train.py writes it into its --log_dir")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            step, kind = record.pop("step"), record.pop("kind")
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{path}:{number}: not a record of a training run") from error
        for name, value in record.items():
            if value is None:  # an evaluation that had nothing to measure
                continue
            steps, values = curves.setdefault(kind, {}).setdefault(name, ([], []))
            steps.append(step)
            values.append(value)
    return curves


def plot(curves: Curves, output: Path) -> list[str]:
    """Writes a PNG with a panel for each number of PANELS that the run recorded.

    Returns:
        a line on each panel: its title and last value.

    Raises:
        UserError: there is nothing to show.
    """
    shown = {key: title for key, title in PANELS.items() if key[1] in curves.get(key[0], {})}
    if not shown:
        raise UserError("the run has recorded nothing yet")
    figure, axes = panels(len(shown))
    reported = []
    for axis, ((kind, name), title) in zip(axes, shown.items(), strict=True):
        steps, values = curves[kind][name]
        marker = "o" if len(steps) < FEW_POINTS else None
        axis.plot(steps, values, marker=marker, markersize=3, color=COLORS[kind])
        axis.set(title=title, xlabel="step")
        reported.append(f"{title}: {values[-1]:.4g} at step {steps[-1]}")
    write_figure(output, figure)
    return reported


@command.one_line_errors()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log_dir", type=Path, default=Path("out/log"), help="of the training run")
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    arguments = parser.parse_args(argv)
    reported = plot(read_curves(arguments.log_dir / RECORD), arguments.output)
    print("\n".join(reported))
    return 0


if __name__ == "__main__":
    command.run(main)
