"""Runs the benchmarks one after another; each prints a table, and a final table has all rows.

    python -m benchmarks [PART...] [--quick] [--folder out/benchmarks]

Without parts, runs all, within 90 minutes on two cores. Each part writes its JSON to the folder.
The final table has every part found there, including those of earlier runs. Peers that are not
installed are skipped with a note; only benchmarks need them:
pip install torch torchvision nvidia-dali-cuda120 nvidia-nvimgcodec-cu12
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import subprocess

from benchmarks.harness import from_root, processor, table, text

FEW = "--rounds=3"  # for parts whose default of 5 takes over five minutes

# Name -> script and flags. benchmarks/compare.py is not a part, because it needs two commits.
PARTS: dict[str, tuple[str, ...]] = {
    "training_step": ("training_step", FEW),
    "training_step_bfloat16": (
        *("training_step", FEW, "--precision=bfloat16", "--contenders"),
        *("ours", "ours, in float32", "keras, oneDNN on", "pytorch"),
    ),
    "dense": ("dense", FEW),
    "loss": ("loss",),
    "input": ("input",),
    "mixing": ("mixing",),
    "storage": ("storage", FEW),
    "inference": ("inference", FEW),
    "inference_bfloat16": ("inference", FEW, "--precision=bfloat16"),
    "conversion": ("conversion",),
    "preparation": ("preparation",),
    "download": ("download",),
    "lists": ("lists",),
    "metrics": ("metrics",),
    "neighbors": ("neighbors",),
    "startup": ("startup",),
    "growth": ("growth",),
    "scaling": ("scaling",),
    "scaling_model": ("scaling_model",),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, to check that it runs")
    parser.add_argument("--folder", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    unknown = sorted(set(args.parts) - set(PARTS))
    if unknown:
        parser.error(f"no benchmark {unknown[0]}; there are {', '.join(PARTS)}")
    failed = []
    for part in possible_parts(args.parts):
        name, *flags = PARTS[part]
        quick, start = ["--quick"] * args.quick, time.monotonic()
        flags = [flag for flag in flags if not (args.quick and flag == FEW)]
        json_file = f"--json={args.folder.resolve() / part}.json"
        command = from_root(f"benchmarks/{name}.py", *flags, *quick, json_file)
        if subprocess.run(command).returncode:
            failed.append(part)
        print(f"\n{part}: {time.monotonic() - start:.0f} s", flush=True)
    print(f"\n{table(all_rows(args.folder))}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def possible_parts(named: list[str]) -> list[str]:
    """The named parts, or all useful on this machine; prints and omits those that cannot run."""
    reasons = {}
    if not shutil.which("horovodrun"):
        reasons["scaling"] = "needs example/install_horovod.sh"
    if not named and not {"avx512_bf16", "amx_bf16"} & set(processor()[1]):
        parts = [part for part, command in PARTS.items() if "--precision=bfloat16" in command]
        reasons |= dict.fromkeys(parts, "the processor would compute it in float32")
    wanted = named or list(PARTS)
    for part in filter(reasons.get, wanted):
        print(f"{part} is left out: {reasons[part]}")
    return [part for part in wanted if part not in reasons]


def all_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of all parts in a common form: the part, what was measured, and the numbers."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            figures = {name: value for name, value in row.items() if value != ""}
            what = figures.pop("what", "")
            shown = ", ".join(f"{name} {text(value)}" for name, value in figures.items())
            rows.append({"part": path.stem, "what": what, "figures": shown})
    return rows


if __name__ == "__main__":
    sys.exit(main())
