"""Names and hierarchy go from training with the checkpoint to prediction, evaluation and export."""

import json
import re

import pytest
from digit_records import write_records

from data.common.files import sha256
from models.checkpoints import checkpoint, metadata

NETWORK = ("--resnet_size=14", "--width=8", "--image_size=32", "--class_num=14", "--batch_size=8")


@pytest.fixture(scope="module")
def records(digits_folder, tmp_path_factory):
    return write_records(digits_folder, tmp_path_factory.mktemp("names") / "records", 24)


@pytest.fixture(scope="module")
def dictionary(digits_folder):
    return digits_folder / "dictionary_and_semantic_hierarchy.txt"


@pytest.mark.slow
def test_training_keeps_them_and_other_scripts_need_no_flag(
    call_script, digits_folder, records, dictionary, tmp_path, capsys
):
    folders = f"--data_dir={records}", "--model_dir=run", "--log_dir=run/log"
    command = ("train.py", *folders, *NETWORK, "--lr=1e-4", f"--val_dir={records}")
    best = "--best_metric=map_macro", "--eval_interval=1"
    assert call_script(*command, *best, "--max_iter=1", f"--dictionary={dictionary}") == 0
    assert call_script(*command, "--max_iter=2") == 0  # a resume keeps them without the flag
    for folder, step in (("run", 2), ("run/best", 1)):
        prefix = checkpoint.find(tmp_path / folder)
        assert prefix.endswith(f"-{step}")
        assert metadata.kept_classes(prefix).sha256 == sha256(dictionary)
    # Of this network all is restored, and of a finetuned one the logits are not.
    again = (*command, "--pretrain_ckpt=run", "--max_iter=1")
    assert call_script(*again, "--model_dir=again") == 0
    assert metadata.kept_classes(tmp_path / "again/model.ckpt-1").names[0] == "even digit"
    assert call_script("finetune.py", *again[1:], "--loss=bce", "--model_dir=tuned") == 0
    assert metadata.kept_classes(tmp_path / "tuned/model.ckpt-1") is None

    image = next((digits_folder / "images").iterdir())
    labels = "--show_labels=path", "--result=labels.jsonl", "--top_k_pred=14"
    assert call_script("image_classification.py", "--model_dir=run", *labels, image) == 0
    (row,) = map(json.loads, (tmp_path / "labels.jsonl").open())
    assert "odd digit > odd prime digit > seven" in {x["name"] for x in row["predictions"]}
    data = f"--val_dir={records}", "--result=report"
    assert call_script("evaluate.py", "--pretrain_ckpt=run", *data) == 0
    assert "even digit" in (tmp_path / "report/classes.csv").read_text()
    (measured,) = json.loads((tmp_path / "report/metrics.json").read_text())["evaluations"]
    assert "hierarchical_f1_at_5" in measured["metrics"]
    onnx = "--export_format=onnx", "--export_dir=exported"
    assert call_script("export.py", "--model_dir=run", *onnx) == 0
    assert "even digit\n" in (tmp_path / "exported/classes.txt").read_text()
    capsys.readouterr()
    assert call_script("export.py", "--model_dir=run", "--list") == 0
    line = re.search("^classes: .*", capsys.readouterr().out, re.M)[0]
    assert line.startswith("classes: 14, with their hierarchy") and "and 9 more" in line


@pytest.mark.parametrize("script", ["train.py", "finetune.py"])
def test_a_dictionary_that_does_not_fit_ends_training_at_its_start(
    call_script, dictionary, capsys, script
):
    network = [flag for flag in NETWORK if "class_num" not in flag]
    flags = *network, "--data_dir=none", "--class_num=11", f"--dictionary={dictionary}"
    assert call_script(script, *flags) == 1
    assert "names 14 classes, the network has 11 (--class_num): give the" in capsys.readouterr().err


@pytest.mark.slow
def test_imported_weights_take_names_along(call_script, thin_checkpoint, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("".join(f"{c}\tname of {c}\n" for c in range(11)))
    (tmp_path / "few.txt").write_text("0\tname\n")
    folders = "--export_format=pytorch", "--export_dir=exported"
    assert call_script("export.py", f"--model_dir={thin_checkpoint}", *folders) == 0
    weights = "--import_weights=exported/model.safetensors", "--result=in/model.ckpt-0"
    assert call_script("export.py", *weights, "--dictionary=few.txt") == 1
    assert "few.txt names 1 classes, the network has 11" in capsys.readouterr().err
    assert call_script("export.py", *weights, "--dictionary=names.txt") == 0
    assert metadata.kept_classes(tmp_path / "in/model.ckpt-0").names[10] == "name of 10"
