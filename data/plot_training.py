"""Plots the training curves in `training.jsonl` of a log folder, or compares several runs.

python data/plot_training.py --log_dir out/log --output curves.png
python data/plot_training.py --log_dir first/log second/log --output compared.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common import command, mirror
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
FEW_POINTS = 40  # shorter curves have a marker at each point
Curve = tuple[list[int], list[float]]
Curves = dict[str, dict[str, Curve]]


def read_curves(path: Path) -> Curves:
    """The numbers of a run: kind (train, val) -> name -> (steps, values).

    Raises:
        UserError: no such file, or a line that is not a record.
    """
    curves: Curves = {}
    mirror.fetch(path)
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


def plot(runs: Mapping[str, Curves], output: Path) -> list[str]:
    """Writes a PNG with a panel for each number of PANELS that a run recorded.

    Args:
        runs: curves by run name; several runs get a color each, and a legend.

    Returns:
        a line for each panel and run: title, run (if there are several), and last value.

    Raises:
        UserError: there is nothing to show.
    """
    found = {key for curves in runs.values() for key in PANELS if key[1] in curves.get(key[0], {})}
    shown = {key: title for key, title in PANELS.items() if key in found}
    if not shown:
        raise UserError("the run has recorded nothing yet")
    figure, axes = panels(len(shown))
    reported = []
    for axis, ((kind, name), title) in zip(axes, shown.items(), strict=True):
        for number, (run, curves) in enumerate(runs.items()):
            if name not in curves.get(kind, {}):
                continue
            steps, values = curves[kind][name]
            marker = "o" if len(steps) < FEW_POINTS else None
            color = COLORS[kind] if len(runs) == 1 else f"C{number}"
            axis.plot(steps, values, marker=marker, markersize=3, color=color, label=run)
            which = f" of {run}" if len(runs) > 1 else ""
            reported.append(f"{title}{which}: {values[-1]:.4g} at step {steps[-1]}")
        axis.set(title=title, xlabel="step")
        if len(runs) > 1:
            axis.legend(fontsize="small")
    write_figure(output, figure)
    return reported


def names_of(folders: Sequence[Path]) -> list[str]:
    """The names of the folders; their paths if two have the same name."""
    names = [folder.resolve().name for folder in folders]
    return (
        names
        if len(set(names)) == len(names)
        else [mirror.shown(str(folder)) for folder in folders]
    )


@command.one_line_errors()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--log_dir",
        type=Path,
        nargs="+",
        default=[Path("out/log")],
        help="log folders of one or more runs",
    )
    add("--output", type=Path, required=True, help="PNG file to write")
    arguments = command.parse(parser, argv, files=["output"], inputs=["log_dir"])
    folders = list(dict.fromkeys(arguments.log_dir))
    curves = [read_curves(folder / RECORD) for folder in folders]
    print("\n".join(plot(dict(zip(names_of(folders), curves, strict=True)), arguments.output)))
    return 0


if __name__ == "__main__":
    command.run(main)
