"""detect.py and segment.py on two real processes train as one with twice the batch."""

from pathlib import Path

import numpy as np
import pytest
from dense_folders import convert, mask, voc_folder, write, xml
from launching import Stage

from models.checkpoints import checkpoint

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
NETWORK = ("--resnet_size=14", "--width=4", "--max_iter=3", "--log_interval=1", "--lr=0.01")
FLAGS = {
    "detect.py": (
        *("--min_side=48", "--max_side=64", "--anchor_scales=0.5,1,2", "--rpn_channels=8"),
        *("--rpn_samples=16", "--regions=16", "--proposals=40"),
    ),
    "segment.py": (
        *("--crop_size=33", "--aspp_filters=8", "--aspp_rates=1,2", "--freeze_batch_norm"),
    ),
}


def make_records(root: Path) -> dict[str, Path]:
    """Records of six images with objects, and of the same ones with masks, by script."""
    boxes = [("cat", 5, 5, 25, 25), ("dog", 30, 10, 58, 38), ("cow", 1, 1, 30, 20)]
    voc = voc_folder(root / "voc", {f"i{n}": xml(boxes[n % 3 : n % 3 + 2]) for n in range(6)})
    values = np.zeros((40, 60), int)
    for number in range(6):
        values[:, 5 * number : 30], values[:, 30] = 1 + number, 255
        write(voc / f"SegmentationClass/i{number}.png", mask(values))
    names = "".join(f"i{number}\n" for number in range(6))
    write(voc / "ImageSets/Segmentation/trainval.txt", names)
    made = {}
    for script, task in (("detect.py", "boxes"), ("segment.py", "masks")):
        assert convert(root / task, "--voc", voc, "--tasks", task) == 0
        made[script] = root / task
    return made


def weights(folder: Path) -> dict[str, np.ndarray]:
    reader = checkpoint.read(checkpoint.find(folder))
    return {name: reader.tensor(name) for name in reader.shapes}


@pytest.mark.parametrize("script", FLAGS)
def test_two_workers_with_an_image_each_train_as_one_with_both(tmp_path, script) -> None:
    stage = Stage(tmp_path / "project")
    data = make_records(tmp_path)[script]
    shared = *NETWORK, *FLAGS[script], "--mode=train", f"--data_dir={data}"
    recipe = stage.recipe("recipe.sh", script)
    alone = "--model_dir=alone", "--log_dir=alone/log", "--batch_size=2"
    assert stage.run(recipe, *shared, *alone) == 0, stage.output
    assert "1 worker(s) do 1 micro-batch(es) of 2 images" in stage.output
    both = "--model_dir=both", "--log_dir=both/log", "--batch_size=1"
    code = stage.run("example/train_distributed.sh", recipe, *shared, *both, NP=2)
    assert code == 0, stage.output
    assert "2 worker(s) do 2 micro-batch(es) of 1 images" in stage.output
    one, other = weights(stage.root / "alone"), weights(stage.root / "both")
    assert one.keys() == other.keys() and int(one["global_step"]) == 3
    assert any(np.abs(value).max() > 0 for name, value in one.items() if "Momentum" in name)
    for name, value in one.items():
        largest = max(np.abs(value).max(), 1e-30)
        assert np.abs(value - other[name]).max() <= TOLERANCE * largest, name
