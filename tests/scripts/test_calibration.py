"""--calibrate and --probabilities as users start them: evaluation, prediction and export."""

import json

import numpy as np
import numpy_network
import pytest
import tensorflow as tf

from data.input.image_batches import Preparation
from models.architecture import variable_shapes
from models.checkpoints import checkpoint
from models.prediction import inference
from models.prediction.inference import NetworkOptions, Predictor

CLASSES, SIDE, WEIGHT, TEMPERATURE = 14, 32, 12.0, 2.0
FLAGS = {"image_size": SIDE, "loss": "multi_label", "positive_weight": WEIGHT}


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def save(folder, flags=None):
    weights = numpy_network.random_weights(variable_shapes(14, CLASSES, 8), 4)
    meta = {"flags": flags} if flags else {}
    return checkpoint.save(folder / "model.ckpt-3", {**weights, "global_step": 3}, meta)


@pytest.fixture(scope="module")
def images(digits_folder):
    return sorted((digits_folder / "images").iterdir())[:120]


@pytest.fixture
def prefix(tmp_path):
    return save(tmp_path / "run", FLAGS)


@pytest.fixture
def labeled(prefix, images, tmp_path):
    """A list with labels drawn with the probabilities that the network should give; its logits."""
    loaded = inference.load(prefix, NetworkOptions())
    crops = np.stack([Preparation(SIDE)(path.read_bytes()) for path in images])
    logits = Predictor(loaded.network, "logits")(crops).astype(np.float64)
    chances = sigmoid((logits - np.log(WEIGHT)) / TEMPERATURE)
    drawn = np.random.default_rng(1).random(chances.shape) < chances
    lines = [
        f"{path}\t" + "\t".join(f"{c}:1" for c in np.flatnonzero(row))
        for path, row in zip(images, drawn, strict=True)
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    return logits


def metrics(tmp_path, result):
    return json.loads((tmp_path / result / "metrics.json").read_text())["evaluations"][0]["metrics"]


@pytest.mark.slow
def test_what_an_evaluation_fits_prediction_and_export_use(
    call_script, prefix, labeled, images, tmp_path, caplog
):
    evaluate = "evaluate.py", "--pretrain_ckpt=run", "list.txt"
    assert call_script(*evaluate, "--calibrate", "--result=raw") == 0
    meta = checkpoint.read(prefix).meta()
    kept, thresholds = meta["calibration"], np.array(meta["calibration"]["thresholds"])
    assert meta["flags"] == FLAGS
    assert kept["temperature"] == pytest.approx(TEMPERATURE, rel=0.15)
    assert (kept["images"], kept["step"], kept["data"]) == (len(images), 3, "list.txt")
    assert "reliability" in (tmp_path / "raw/report.html").read_text().lower()
    errors = {}
    for name in ("raw", "corrected", "calibrated"):
        assert call_script(*evaluate, f"--probabilities={name}", f"--result={name}") == 0
        errors[name] = metrics(tmp_path, name)["ece"]
        assert errors[name] == pytest.approx(kept["ece"][name], abs=1e-5)
    assert errors["calibrated"] < errors["corrected"] < errors["raw"]
    assert metrics(tmp_path, "calibrated")["map_macro"] == pytest.approx(
        metrics(tmp_path, "raw")["map_macro"], abs=1e-9
    )
    # Evaluation predicts by the kept thresholds, those with the best F1 on these images.
    assert call_script(*evaluate, "--threshold=0.5", "--result=half") == 0
    f1 = {name: metrics(tmp_path, name)["macro_f1"] for name in ("raw", "calibrated", "half")}
    assert f1["calibrated"] == pytest.approx(f1["raw"], abs=1e-3) and f1["half"] < f1["raw"]

    # Prediction: the same labels by the kept thresholds, the probabilities of the flag.
    command = "image_classification.py", "--model_dir=run", "--top_k_pred=14", *images[:20]
    x = (labeled[:20] - np.log(WEIGHT)) / kept["temperature"]
    for name, expected in (("raw", sigmoid(labeled[:20])), ("calibrated", sigmoid(x))):
        flags = f"--probabilities={name}", f"--result={name}.jsonl"
        assert call_script(*command, *flags) == 0
        for line, values, raw in zip(
            (tmp_path / f"{name}.jsonl").open(), expected, sigmoid(labeled[:20]), strict=True
        ):
            found = {p["index"]: p["probability"] for p in json.loads(line)["predictions"]}
            assert found == pytest.approx({c: values[c] for c in found}, abs=1e-5)
            surely = np.flatnonzero(raw >= thresholds + 1e-6)
            perhaps = np.flatnonzero(raw >= thresholds - 1e-6)
            assert set(surely) <= found.keys() <= set(perhaps)
    assert call_script(*command, "--threshold=0", "--result=all.jsonl") == 0
    for line in (tmp_path / "all.jsonl").open():
        assert len(json.loads(line)["predictions"]) == CLASSES

    # Exports: SavedModel and ONNX give the same scores, and the card says how.
    flags = "--probabilities=calibrated", "--export_dir=out", *images[:2]
    formats = "--export_format=saved_model", "--export_format=onnx"
    assert call_script("export.py", "--model_dir=run", *formats, *flags) == 0
    served = tf.saved_model.load(str(tmp_path / "out/saved_model"))
    best = served.signatures["serving_default"](tf.constant([images[0].read_bytes()]))
    np.testing.assert_allclose(best["scores"][0], np.sort(sigmoid(x[0]))[:-6:-1], atol=1e-4)
    onnx_file = pytest.importorskip("models.export.onnx_file")
    crops = Preparation(SIDE)(images[0].read_bytes())
    found = onnx_file.open_network(tmp_path / "out/model.onnx")(crops)
    np.testing.assert_allclose(found["scores"][0], sigmoid(x[0]), atol=1e-4)
    card = (tmp_path / "out/README.md").read_text()
    assert f"sigmoid of (logits - 2.48491) / {kept['temperature']:.6g}" in card


@pytest.mark.slow
def test_the_card_of_raw_scores_says_that_a_half_is_not_even(call_script, prefix, tmp_path):
    command = "export.py", "--export_format=onnx"
    assert call_script(*command, "--model_dir=run", "--export_dir=raw") == 0
    assert "as likely as not gets 0.92" in (tmp_path / "raw/README.md").read_text()
    save(tmp_path / "plain", FLAGS | {"positive_weight": 1.0})
    assert call_script(*command, "--model_dir=plain", "--export_dir=one") == 0
    assert "likely as not" not in (tmp_path / "one/README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "weight"),
    [
        (None, 12.0),  # a released checkpoint
        (FLAGS | {"positive_weight": 5.0}, 5.0),
        (FLAGS | {"loss": "bce", "positive_weight": 3.0}, 3.0),
        (FLAGS | {"loss": "asymmetric"}, 1.0),  # which has no positive_weight
    ],
)
def test_corrected_scores_take_the_weight_of_the_checkpoints_loss_back(
    call_script, images, tmp_path, flags, weight
):
    save(tmp_path / "run", flags)
    command = "image_classification.py", "--model_dir=run", "--label_mode=multi", "--top_k_pred=14"
    shown = {}
    for name in ("raw", "corrected"):
        results = f"--probabilities={name}", f"--result={name}.jsonl"
        assert call_script(*command, f"--image_size={SIDE}", *results, images[0]) == 0
        row = json.loads((tmp_path / f"{name}.jsonl").read_text())
        shown[name] = {p["index"]: p["probability"] for p in row["predictions"]}
    expected = {c: q / (q + weight * (1 - q)) for c, q in shown["raw"].items()}
    assert shown["corrected"] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--probabilities=calibrated"],
            "evaluate.py --pretrain_ckpt=run/model.ckpt-3 --calibrate",
        ),
        (["--probabilities=calibrated", "--compare=run"], "--calibrate --val_dir=RECORDS"),
        (["--probabilities=corrected", "--calibrate"], "leave out --probabilities=corrected"),
        (["--pretrain_ckpt=imported", "--calibrate"], "does not say which loss"),
        (["--calibrate"], "no temperature can be fitted"),
    ],
)
def test_mistakes_end_in_one_line(
    call_script, prefix, images, tmp_path, capsys, arguments, message
):
    save(tmp_path / "imported", {"image_size": SIDE})
    (tmp_path / "list.txt").write_text("".join(f"{path}\t3:1\n" for path in images[:9]))
    common = "--pretrain_ckpt=run", "--label_mode=multi", "list.txt", *arguments
    assert call_script("evaluate.py", *common) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and message in errors[0]
    assert "calibration" not in checkpoint.read(prefix).meta()


@pytest.mark.slow
def test_a_fit_of_other_weights_or_scores_is_not_used(
    call_script, prefix, images, tmp_path, capsys
):
    section = {"temperature": 2.0, "thresholds": [1.0] * CLASSES, "score": "softmax"}
    section |= {"use_ema": False, "data": "list.txt", "images": 3, "ece": {}}
    checkpoint.save_meta(prefix, {"calibration": section})
    command = "image_classification.py", "--model_dir=run", "--result=p.jsonl", images[0]
    assert call_script(*command) == 0
    assert len(json.loads((tmp_path / "p.jsonl").read_text())["predictions"]) == 5
    assert call_script(*command, "--probabilities=calibrated") == 1
    assert "no temperature for sigmoid scores" in capsys.readouterr().err
    checkpoint.save_meta(prefix, {"calibration": section | {"score": "sigmoid"}})
    assert call_script(*command) == 0
    assert json.loads((tmp_path / "p.jsonl").read_text())["predictions"] == []
    short = section | {"score": "sigmoid", "thresholds": [0.5]}
    checkpoint.save_meta(prefix, {"calibration": short})
    assert call_script(*command) == 1
    assert "has 1 thresholds for 14 classes" in capsys.readouterr().err
