"""Does pretraining help? Finetuning from a pretrained network against the same from scratch.

    python benchmarks/transfer.py [--seeds 1 2 3] [--images_per_class 5] [--json FILE]

As ML-Images and ImageNet, in small, on real data: the network is pretrained, with the multi-label
loss and the hierarchy, on one half of scikit-learn's handwritten digits, and then finetuned with
softmax on a few images a digit of the other half. Top-1 is measured on writers that neither
training saw. Both finetunings have the same steps, rate and images; the seed changes images,
weights and order.

Pretraining must be broad to help: on the digits 0 to 4 alone, finetuning for 5 to 9 with ten images
each came to a top-1 of 0.49, and 0.81 from scratch.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.measuring import report
from data import digits
from data.lists.rows import Row, read_rows
from data.tfrecords.examples import encode_example
from data.tfrecords.records import RecordWriter

ROOT = Path(__file__).resolve().parents[1]
FIRST_DIGIT = len(digits.ABOVE)  # its class; the classes before it are the hierarchy's
CLASSES = len(digits.CATEGORIES)
DIGITS = CLASSES - FIRST_DIGIT
# The network, the augmentation of digits and the pretraining are those of example/quickstart.sh.
NETWORK = ("--resnet_size=14", "--width=32", "--image_size=32", "--batch_norm_decay=0.9")
AUGMENTATION = (
    "--flip_probability=0",
    "--rotate_probability=0.5",
    "--rotate_degrees=10",
    "--color_probability=0",
    "--brightness=0",
    "--hue=0",
    "--saturation_min=1",
    "--saturation_max=1",
    "--contrast_min=0.7",
    "--contrast_max=1.3",
    "--area_min=0.8",
)
PRETRAINING = (
    "--batch_size=16",
    "--lr_policy=cosine",
    "--lr=0.02",
    "--warmup=100",
    "--neg_select=1",  # of 14 classes; the default of 0.1 is for 11,166
)
FINETUNING = ("--batch_size=10", "--lr_policy=cosine", "--lr=0.01", "--warmup=10")


def digit_of(row: Row) -> int:
    return row.classes[0] - FIRST_DIGIT


def write(folder: Path, rows: Iterable[Row], source: Path, single: bool) -> Path:
    """Records of rows: with all their labels, or with the digit as the only one."""
    folder.mkdir(parents=True)
    side = digits.IMAGE_SIDE
    with RecordWriter(folder / "records") as writer:
        for row in rows:
            jpeg = (source / row.image).read_bytes()
            label: Sequence[int] = row.classes
            if single:
                label = [digit_of(row)]
            kind, values = ("single", None) if single else ("sparse", row.confidences)
            writer.write(encode_example(kind, jpeg, row.image, side, side, label, values))
    return folder


def run(script: str, *arguments: str) -> None:
    """Runs a root script; its log is shown when it fails."""
    command = [sys.executable, str(ROOT / script), *NETWORK, *AUGMENTATION, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{script} failed:\n{done.stderr}")


def top_1(model: Path) -> float:
    """The last evaluation of a run, of its `training.jsonl`."""
    lines = (model / "log" / "training.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "val"][-1]["top_1"]


def finetuned(folder: Path, rows: list[Row], seed: int, args: argparse.Namespace) -> list[float]:
    """Top-1 from the pretrained network, and from scratch, with one seed."""
    random = np.random.default_rng(seed)
    chosen: list[Row] = []
    for digit in range(DIGITS):
        own = [row for row in rows if digit_of(row) == digit]
        chosen += [own[i] for i in random.permutation(len(own))[: args.images_per_class]]
    records = write(folder / f"few-{seed}", chosen, folder / "digits", single=True)
    results = []
    for start in ("pretrained", "scratch"):
        model = folder / f"{start}-{seed}"
        arguments = [
            f"--data_dir={records}",
            f"--val_dir={folder / 'test'}",
            f"--class_num={DIGITS}",
        ]
        arguments += [f"--model_dir={model}", f"--log_dir={model / 'log'}", *FINETUNING]
        arguments += [f"--random_seed={seed}", f"--max_iter={args.steps}"]
        if start == "pretrained":
            arguments.append(f"--pretrain_ckpt={folder / 'pretraining'}")
        run("finetune.py", *arguments)
        results.append(top_1(model))
    return results


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each start: mean, least and largest top-1 over the seeds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits.write_digits(folder / "digits")
        rows = list(read_rows(folder / "digits" / "train_im_list.txt"))
        held_out = list(read_rows(folder / "digits" / "val_im_list.txt"))
        first, others = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        pretraining = folder / "pretraining"
        records = write(folder / "first", first, folder / "digits", single=False)
        write(folder / "test", held_out, folder / "digits", single=True)
        run(
            "train.py",
            f"--data_dir={records}",
            f"--model_dir={pretraining}",
            f"--log_dir={pretraining / 'log'}",
            f"--class_num={CLASSES}",
            *PRETRAINING,
            f"--max_iter={args.pretraining_steps}",
        )
        found = [finetuned(folder, others, seed, args) for seed in args.seeds]
    return [
        {
            "start": start,
            "images per class": args.images_per_class,
            "steps": args.steps,
            "top-1 mean": statistics.mean(values),
            "least": min(values),
            "largest": max(values),
            "seeds": len(values),
        }
        for start, values in zip(("pretrained", "scratch"), zip(*found, strict=True), strict=True)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--images_per_class", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="of finetuning")
    parser.add_argument("--pretraining_steps", type=int, default=1200)
    parser.add_argument("--json", help="file for the rows as JSON")
    args = parser.parse_args(argv)
    report("Finetuning on a few digits, held-out writers", measure(args), args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
