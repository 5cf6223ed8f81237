"""One's own boxes and masks, from annotations to predictions, and what a new user gets wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from dense_folders import coco_file, convert, mask, photo, save, write, xml

DETECTOR = (
    *("--resnet_size=14", "--width=8", "--min_side=48", "--max_side=64", "--rpn_channels=8"),
    *("--anchor_scales=0.5,1,2", "--rpn_samples=16", "--regions=16", "--proposals=40"),
)
SEGMENTER = (
    *("--resnet_size=14", "--width=8", "--crop_size=33", "--aspp_filters=8", "--aspp_rates=1,2"),
    *("--batch_size=2", "--batch_norm_decay=0.5"),
)
STEPS = ("--mode=train", "--max_iter=2", "--lr=1e-3", "--model_dir=run", "--log_dir=run/log")


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """Four photographs in photos/, with objects in boxes.json and in xml/, and masks."""
    root = tmp_path_factory.mktemp("own")
    values = np.zeros((40, 60), int)
    values[5:25, 5:25] = 2
    for number in range(4):
        save(root / f"photos/{number}.jpg", photo(60, 40, number))
        write(root / f"xml/{number}.xml", xml([("bolt", 5, 5, 25, 25), ("nut", 30, 9, 50, 30)]))
        write(root / f"masks/{number}.png", mask(values))
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 60, "height": 40} for n in range(4)]
    boxes = [{"id": n, "image_id": n, "bbox": [4, 4, 21, 21], "category_id": 7} for n in range(4)]
    categories = [{"id": 3, "name": "bolt"}, {"id": 7, "name": "nut"}]
    coco_file(root / "boxes.json", images, boxes, categories)
    write(root / "names.txt", "bolt\nnut\n")
    write(root / "mask_names.txt", "background\nbolt\nnut\n")
    photos = "--images", root / "photos"
    classes = "--classes", root / "names.txt"
    assert convert(root / "coco", "--coco", root / "boxes.json", *photos) == 0
    assert convert(root / "voc", "--voc", root / "xml", *photos, *classes) == 0
    of_masks = "--classes", root / "mask_names.txt"
    assert convert(root / "pixels", "--masks", root / "masks", *photos, *of_masks) == 0
    return root


@pytest.mark.slow
@pytest.mark.parametrize("source", ["coco", "voc"])
def test_own_boxes(call_script, own, tmp_path, source) -> None:
    assert call_script("detect.py", *STEPS, *DETECTOR, f"--data_dir={own / source}") == 0
    assert call_script("detect.py", "--model_dir=run", str(own / "photos")) == 0
    found = json.loads((tmp_path / "detections.json").read_text())
    assert [category["name"] for category in found["categories"]] == ["bolt", "nut"]
    assert len(found["images"]) == 4


@pytest.mark.slow
def test_own_masks(call_script, own, tmp_path) -> None:
    assert call_script("segment.py", *STEPS, *SEGMENTER, f"--data_dir={own / 'pixels'}") == 0
    assert call_script("segment.py", "--model_dir=run", str(own / "photos")) == 0
    rows = [json.loads(line) for line in (tmp_path / "masks.jsonl").open()]
    assert len(rows) == 4 and {*rows[0]["found"]["pixels"]} <= {"background", "bolt", "nut"}


@pytest.mark.slow
def test_records_with_boxes_train_a_classifier_of_what_is_in_the_images(call_script, own) -> None:
    flags = "--resnet_size=14", "--width=8", "--image_size=32", "--batch_size=2", "--class_num=2"
    assert call_script("train.py", *STEPS, *flags, f"--data_dir={own / 'voc'}") == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["detect.py", "--model_dir={thin}", "a.jpg"], "of another task: it has logits/dense/bias"),
        (["segment.py", "--model_dir={thin}", "a.jpg"], "not segmentation/logits/bias; to train"),
        (["detect.py", *STEPS, *DETECTOR, "--model_dir={thin}", "--data_dir={own}/voc"], "another"),
        (["detect.py", *STEPS, *DETECTOR, "--data_dir={own}/pixels"], "--tasks=boxes writes such"),
        (["segment.py", *STEPS, *SEGMENTER, "--data_dir={own}/voc"], "--tasks=masks writes such"),
        (["detect.py", *STEPS, *DETECTOR, "--class_num=1", "--data_dir={own}/voc"], "--class_num"),
        (["segment.py", *STEPS, *SEGMENTER, "--class_num=2", "--data_dir={own}/pixels"], "--class"),
        pytest.param(
            ["train.py", *STEPS, "--class_num=1", "--data_dir={own}/voc"],
            "check --class_num",
            marks=pytest.mark.slow,
        ),
        (["train.py", "--mode=predict"], "--mode=predict is for detect.py and segment.py"),
    ],
)
def test_a_mistake_is_a_line_that_says_what_to_do(
    call_script, own, thin_checkpoint, tmp_path, capsys, command, message
) -> None:
    save(tmp_path / "a.jpg", photo(60, 40))
    command = [part.format(own=own, thin=thin_checkpoint) for part in command]
    assert call_script(*command) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
