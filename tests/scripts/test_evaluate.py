"""evaluate.py on real images: its numbers, its report, its parts, and bad input."""

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy_network
import pyarrow.parquet as pq
import pytest
from absl.testing import flagsaver
from launching import Stage
from sklearn.metrics import average_precision_score

import evaluate
import flags
from data.common.errors import UserError
from data.input.evaluation import EvaluationImages
from data.input.image_batches import Preparation
from data.lists.class_files import read_thresholds
from data.lists.rows import ListError, read_rows
from data.outputs import evaluated_images
from data.outputs.evaluated_images import EvaluatedImages
from data.outputs.evaluation_report import write_thresholds
from data.tfrecords.examples import encode_example
from data.tfrecords.records import RecordWriter
from models.architecture import variable_shapes
from models.checkpoints import checkpoint
from models.checkpoints.checkpoint import CheckpointError
from models.prediction import inference
from models.prediction.evaluation import EvaluationOptions
from models.prediction.evaluation import evaluate as evaluate_checkpoint

CLASSES = 14
SIDE = 32
IMAGES = 40


def save(folder, step, class_num=CLASSES, seed=0):
    weights = numpy_network.random_weights(variable_shapes(14, class_num, 8), seed)
    meta = {"flags": {"image_size": SIDE}}
    return checkpoint.save(folder / f"model.ckpt-{step}", {**weights, "global_step": step}, meta)


@pytest.fixture(scope="module")
def data(tmp_path_factory, digits_folder):
    """Two checkpoints, a list of 40 digits with their hierarchy, and a list of single labels."""
    folder = tmp_path_factory.mktemp("evaluate")
    for step in (3, 12):
        save(folder / "run", step, seed=step)
    lines = (digits_folder / "val_im_list.txt").read_text().splitlines()[:IMAGES]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    single = ["\t".join(line.split("\t")[:2]) for line in lines]
    (folder / "single.txt").write_text("\n".join(single) + "\n")
    shutil.copytree(digits_folder / "images", folder / "images")
    shutil.copy(digits_folder / "dictionary_and_semantic_hierarchy.txt", folder / "dictionary.txt")
    return folder


def run(folder, name, *sources, **values):
    """Runs evaluate.py's main in this process; its metrics.json."""
    values = {
        "pretrain_ckpt": str(folder / "run"),
        "images": [str(folder / source) for source in sources],
        "dictionary": str(folder / "dictionary.txt"),
        "result": str(folder / name),
        "label_mode": "multi",
        "threshold": 0.5,
        "batch_size": 16,
        "top_k_pred": 10,
        **values,
    }
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["evaluate.py"])
    with flagsaver.flagsaver(**values):
        flags.FLAGS["threshold"].present = 1  # as on the command line
        assert evaluate.main() == 0
    return json.loads((folder / name / "metrics.json").read_text())


def scores_of(folder, step):
    """Probabilities [40, 14] and dense labels, computed apart from evaluate.py."""
    loaded = inference.load(str(folder / f"run/model.ckpt-{step}"), inference.NetworkOptions())
    rows = list(read_rows(folder / "list.txt"))
    prepare = Preparation(SIDE)
    crops = np.stack([prepare((folder / row.image).read_bytes()) for row in rows])
    labels = np.zeros((len(rows), CLASSES))
    for number, row in enumerate(rows):
        labels[number, list(row.classes)] = row.confidences
    return inference.Predictor(loaded.network, "sigmoid")(crops), labels


@pytest.mark.slow
def test_a_report_that_does_not_fit_on_the_disk_is_an_error(data):
    """Whether the files do not fit or what is printed."""
    script = [sys.executable, Path(evaluate.__file__), data / "list.txt", "--label_mode=multi"]
    script += [f"--pretrain_ckpt={data / 'run'}", f"--dictionary={data / 'dictionary.txt'}"]
    limits = {"files": "ulimit -f 1; exec {} | cat", "printed": "exec {} > /dev/full"}
    for name, command in limits.items():
        line = shlex.join(map(str, [*script, f"--result={data / name}"]))
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command.format(line)], capture_output=True, text=True
        )
        assert done.returncode != 0
        reason = {"files": "File too large", "printed": "No space left"}[name]
        assert "error: " in done.stderr and reason in done.stderr


@pytest.mark.slow
def test_multi_label_report(data, capsys):
    results = run(data, "multi", "list.txt", compare=str(data / "run/model.ckpt-3"))
    assert "map_macro" in capsys.readouterr().out
    scores, labels = scores_of(data, 12)
    first, second = results["evaluations"]
    assert (first["step"], second["step"]) == (12, 3)
    assert first["metrics"]["images"] == IMAGES
    assert first["metrics"]["map_micro"] == pytest.approx(
        average_precision_score(labels.ravel(), scores.ravel()), abs=1e-4
    )
    rows = list(csv.DictReader((data / "multi/classes.csv").open()))
    assert [row["name"] for row in rows][:2] == ["even digit", "odd digit"]
    for c, row in enumerate(rows):
        if labels[:, c].any():
            expected = average_precision_score(labels[:, c], scores[:, c])
            assert float(row["average_precision"]) == pytest.approx(expected, abs=1e-4)
        else:
            assert row["average_precision"] == ""
    page = (data / "multi/report.html").read_text()
    for part in ("hierarchical_f1_at_5", "difference", "<svg", "data:image/jpeg", "even digit"):
        assert part in page
    assert '<a href="images.html">' in page
    pair = next(csv.DictReader((data / "multi/confusions.csv").open()))
    assert f"#class={pair['label']}&amp;kind=missed&amp;with={pair['predicted']}" in page
    found = {int(row["number"]) for row in csv.DictReader((data / "multi/predictions.csv").open())
             if row["missed"] or row["wrong"]}  # fmt: skip
    content = re.search(r'id="mistakes">(.*?)</script>', (data / "multi/images.html").read_text())
    assert {shown[0] for shown in json.loads(content[1])["images"]} == found != set()


@pytest.mark.slow
def test_a_python_program_gets_the_same_numbers(data):
    loaded = inference.load(str(data / "run"), inference.NetworkOptions())
    images = EvaluationImages([str(data / "list.txt")], "", CLASSES, 0)
    options = EvaluationOptions("multi", str(data / "dictionary.txt"), batch_size=16)
    expected = run(data, "script", "list.txt")["evaluations"][0]["metrics"]
    assert evaluate_checkpoint(loaded, images, options).metrics == expected


@pytest.mark.slow
def test_every_checkpoint_of_a_folder_as_a_curve(data):
    results = run(data, "curve", "list.txt", all_checkpoints=True, page_classes=0)
    assert [e["step"] for e in results["evaluations"]] == [3, 12]
    assert "Checkpoints" in (data / "curve/report.html").read_text()


@pytest.mark.slow
def test_single_label_report_with_ten_crops(data):
    results = run(data, "single", "single.txt", label_mode="single", ten_crop=True, image_size=28)
    metrics = results["evaluations"][0]["metrics"]
    assert metrics["images"] == IMAGES
    assert metrics["top_1_low"] <= metrics["top_1"] <= metrics["top_5"] <= metrics["top_5_high"]
    confused = list(csv.DictReader((data / "single/confusions.csv").open()))
    wrong = sum(int(row["images"]) for row in confused)
    assert wrong == round(IMAGES * (1 - metrics["top_1"]))
    assert "Confusions" in (data / "single/report.html").read_text()
    assert "(here: if another class scores best)" in (data / "single/images.html").read_text()
    run(data, "single", "single.txt", label_mode="single", page_mistakes=0, predictions="none")
    assert not (data / "single/images.html").exists()
    assert "images.html" not in (data / "single/report.html").read_text()


def labels_of(cell):
    """`class:score ...` as a dict."""
    pairs = (part.split(":") for part in cell.split())
    return {int(c): float(score) for c, score in pairs}


@pytest.mark.slow
def test_predictions_of_each_image(data):
    run(data, "images", "list.txt", threshold=0.4, top_k_pred=3)
    scores, labels = scores_of(data, 12)
    rows = list(csv.DictReader((data / "images/predictions.csv").open()))
    table = pq.read_table(data / "images/predictions.parquet").to_pylist()
    assert [int(row["number"]) for row in rows] == [row["number"] for row in table]
    assert len(rows) == IMAGES
    names = [row["name"] for row in csv.DictReader((data / "images/classes.csv").open())]
    for number, row in enumerate(rows):
        own, true = scores[number], labels[number] > 0
        best = np.isin(np.arange(CLASSES), np.argsort(-own, kind="stable")[:3])
        predicted = (own >= 0.4) & (best | true)
        expected = {
            "labels": true,
            "predicted": predicted,
            "missed": true & ~predicted,
            "wrong": predicted & ~true,
            "best": best | true,
        }
        for column, holds in expected.items():
            found = labels_of(row[column])
            assert sorted(found) == np.flatnonzero(holds).tolist(), column
            np.testing.assert_allclose([*found.values()], own[[*found]], rtol=1e-4, atol=1e-7)
        assert [*labels_of(row["best"]).values()] == sorted(
            labels_of(row["best"]).values(), reverse=True
        )
        missed = "; ".join(names[c] for c in labels_of(row["missed"]))
        assert row["missed_names"] == missed
        loss = -np.log(np.where(true, own, 1 - own)).sum()
        assert float(row["loss"]) == pytest.approx(loss, rel=1e-4)
        assert [label["index"] for label in table[number]["labels"]] == [*labels_of(row["best"])]
        assert table[number]["image"] == row["image"]
    assert not list((data / "images").glob("*.partial"))


@pytest.mark.slow
def test_predictions_of_single_labels(data):
    metrics = run(data, "one_label", "single.txt", label_mode="single")["evaluations"][0]["metrics"]
    rows = list(csv.DictReader((data / "one_label/predictions.csv").open()))
    assert sum(not row["wrong"] for row in rows) == round(IMAGES * metrics["top_1"])
    assert all(len(labels_of(row["predicted"])) == 1 for row in rows)
    assert np.mean([float(row["loss"]) for row in rows]) == pytest.approx(metrics["loss"], abs=1e-4)


@pytest.mark.slow
def test_unreadable_images_have_their_row(data):
    lines = (data / "list.txt").read_text().splitlines()
    lines[3:3] = ["gone.jpg\t3:1"]
    (data / "gap.txt").write_text("\n".join(lines) + "\n")
    run(data, "gap", "gap.txt")
    rows = list(csv.DictReader((data / "gap/predictions.csv").open()))
    assert [int(row["number"]) for row in rows] == list(range(IMAGES + 1))
    assert rows[3]["problem"] and (rows[3]["image"], rows[3]["loss"]) == ("gone.jpg", "")
    assert not rows[2]["problem"]


@pytest.mark.slow
def test_prediction_files_that_are_not_asked_for_are_not_there(data, monkeypatch):
    run(data, "formats", "list.txt", predictions="csv")
    assert not (data / "formats/predictions.parquet").exists()
    run(data, "formats", "list.txt", predictions="none")
    assert not (data / "formats/predictions.csv").exists()  # that of the first run
    monkeypatch.setattr(evaluated_images, "has_pyarrow", lambda: False)
    run(data, "formats", "list.txt")
    assert [path.name for path in (data / "formats").glob("predictions.*")] == ["predictions.csv"]
    with pytest.raises(UserError, match="--predictions=parquet needs pyarrow"):
        run(data, "formats", "list.txt", predictions="parquet")


def test_a_worker_whose_file_is_elsewhere_is_missed(tmp_path):
    log = EvaluatedImages(tmp_path, 0, 2)
    log.close()
    with pytest.raises(UserError, match="000001-of-000002 is missing: all workers"):
        list(log.read())


@pytest.mark.slow
def test_thresholds_fitted_on_one_split_apply_to_another(data):
    before = run(data, "fit", "list.txt", fit_thresholds=str(data / "thresholds.tsv"))
    after = run(data, "apply", "list.txt", threshold_file=str(data / "thresholds.tsv"))
    f1 = [r["evaluations"][0]["metrics"]["macro_f1"] for r in (before, after)]
    assert f1[1] > f1[0]


@pytest.mark.slow
def test_means_over_a_frozen_list_of_classes(data):
    (data / "some.txt").write_text("# the digits\n3 first\n\n4\n")
    results = run(data, "frozen", "list.txt", supported_classes=str(data / "some.txt"))
    assert results["evaluations"][0]["metrics"]["supported_classes"] <= 2


@pytest.mark.slow
def test_records_and_lists_give_the_same_numbers(data):
    (data / "records").mkdir()
    with RecordWriter(data / "records/0.tfrecord") as writer:
        for row in read_rows(data / "list.txt"):
            image = (data / row.image).read_bytes()
            writer.write(sparse_example(image, row))
    listed = run(data, "listed", "list.txt")
    recorded = run(data, "recorded", val_dir=str(data / "records"))
    assert recorded["evaluations"][0]["metrics"] == listed["evaluations"][0]["metrics"]


def sparse_example(image, row):
    return encode_example("sparse", image, row.image, SIDE, SIDE, row.classes, row.confidences)


def test_batches_are_the_same_for_any_number_of_workers(data):
    prepare = Preparation(SIDE)

    def batches(rank, size):
        images = EvaluationImages([str(data / "list.txt")], "", CLASSES, 0)
        return [batch.sample_index.tolist() for batch in images.batches(prepare, 6, 2, rank, size)]

    parts = [batches(rank, 3) for rank in range(3)]
    assert [parts[i % 3][i // 3] for i in range(7)] == batches(0, 1)
    assert [p for batch in batches(0, 1) for p in batch] == list(range(IMAGES))


@pytest.mark.slow
def test_two_horovod_workers_give_the_same_numbers(data, tmp_path):
    stage = Stage(tmp_path / "project")
    command = f"evaluate.py --pretrain_ckpt={data}/run --dictionary={data}/dictionary.txt"
    command += f" --label_mode=multi --batch_size=8 --result={data}/two {data}/gaps.txt"
    rows = (data / "list.txt").read_text().splitlines()
    rows[9:9] = ["gone_1.jpg\t3:1"]  # in the second worker's first batch
    (data / "gaps.txt").write_text("\n".join([*rows, "gone_2.jpg\t3:1"]) + "\n")
    code = stage.run("example/train_distributed.sh", stage.recipe("evaluate.sh", command), NP=2)
    assert code == 0, stage.output
    together = json.loads((data / "two/metrics.json").read_text())
    alone = run(data, "one", "gaps.txt", batch_size=8)
    assert together["evaluations"] == alone["evaluations"]
    assert together["evaluations"][0]["unreadable_images"] == 2
    assert [name for name, _ in together["unreadable"]] == ["gone_1.jpg", "gone_2.jpg"]
    for name in ("predictions.csv", "predictions.parquet", "images.html"):
        assert (data / "two" / name).read_bytes() == (data / "one" / name).read_bytes()
    pages = [(data / folder / "report.html").read_text() for folder in ("one", "two")]
    shown = [page[page.index("Images of the worst") : page.index("Settings")] for page in pages]
    assert "<img" in shown[0] and shown[0] == shown[1]


@pytest.mark.slow
def test_missing_files_are_counted_and_end_the_run_beyond_the_limit(data):
    lines = (data / "list.txt").read_text().splitlines()
    lines[3:5] = ["gone_1.jpg\t3:1", "gone_2.jpg\t4:1"]
    (data / "gaps.txt").write_text("\n".join(lines) + "\n")
    results = run(data, "gaps", "gaps.txt", max_bad_records=2)
    assert results["evaluations"][0]["unreadable_images"] == 2
    assert results["evaluations"][0]["metrics"]["images"] == IMAGES - 2
    assert [name for name, _ in results["unreadable"]] == ["gone_1.jpg", "gone_2.jpg"]
    with pytest.raises(UserError, match=r"2 images cannot be read.*gone_2.jpg.*max_bad_records"):
        run(data, "gaps", "gaps.txt", max_bad_records=1)


def test_label_beyond_the_classes_is_refused(data):
    (data / "beyond.txt").write_text("a.jpg\t3:1\nb.jpg\t14:1\n")
    with pytest.raises(ListError, match=r"beyond.txt:2: class 14 is not in 0..13"):
        run(data, "beyond", "beyond.txt")


@pytest.mark.slow
def test_several_labels_in_single_mode_are_refused(data):
    with pytest.raises(UserError, match="exactly one label per image"):
        run(data, "several", "list.txt", label_mode="single")


def test_thresholds_for_single_labels_are_refused_before_the_network_is_loaded(data, monkeypatch):
    monkeypatch.delattr(inference, "load")
    with pytest.raises(UserError, match="--fit_thresholds needs --label_mode=multi"):
        run(data, "no_fit", "single.txt", label_mode="single", fit_thresholds=str(data / "no.tsv"))


def test_average_that_the_checkpoint_lacks_is_refused(data):
    with pytest.raises(CheckpointError, match="average"):
        run(data, "ema", "list.txt", use_ema=True)


def test_checkpoints_of_other_class_counts_are_not_compared(data, tmp_path):
    other = save(tmp_path, 1, class_num=5)
    with pytest.raises(UserError, match=r"14 classes.*5"):
        run(data, "other", "list.txt", compare=other)


@pytest.mark.parametrize("at_k", [["0"], ["5", "x"]])
def test_wrong_k_is_refused(data, at_k):
    with pytest.raises(UserError, match="--at_k"):
        run(data, "k", "list.txt", at_k=at_k)


def test_folder_without_checkpoints_is_refused(data, tmp_path):
    with pytest.raises(UserError, match="no checkpoint in folder"):
        run(data, "none", "list.txt", pretrain_ckpt=str(tmp_path), all_checkpoints=True)


@pytest.mark.slow
def test_command_line_gives_one_line_of_error(data, run_script):
    arguments = f"--pretrain_ckpt={data / 'run'}", "--label_mode=multi", "--at_k=0"
    failed = run_script("evaluate.py", *arguments, data / "list.txt")
    assert failed.returncode == 1
    assert failed.stderr.strip().splitlines()[-1].startswith("error: --at_k=0")


def test_thresholds_survive_the_file(tmp_path):
    thresholds = np.random.default_rng(0).random(50).astype("f4")
    write_thresholds(tmp_path / "thresholds.tsv", thresholds)
    np.testing.assert_array_equal(read_thresholds(tmp_path / "thresholds.tsv", 50, 0), thresholds)
