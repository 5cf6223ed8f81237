"""Exports and imports: outputs against NumPy on a real photograph, names, errors, the scripts."""

import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import numpy_network
import numpy_preprocessing
import pytest
import sklearn.datasets
import tensorflow as tf
from PIL import Image
from safetensors.numpy import load_file

from data.common.errors import UserError
from data.common.files import sha256
from data.input.image_batches import Preparation
from models.architecture import variable_shapes
from models.calibration import Calibration
from models.checkpoints import checkpoint, weight_files
from models.checkpoints import report as checkpoint_report
from models.checkpoints.checkpoint import CheckpointError
from models.export import exporting
from models.resnet import ResNet

SIZE, CLASSES, WIDTH = 64, 6, 8
NAMES = [f"class {c}" for c in range(CLASSES)]
PHOTO = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"


# Depth 14 has no block whose shortcut is its input as it is; 50 does.
@pytest.fixture(scope="module", params=[14, pytest.param(50, marks=pytest.mark.slow)])
def depth(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def weights(depth) -> dict[str, np.ndarray]:
    return numpy_network.random_weights(variable_shapes(depth, CLASSES, WIDTH))


@pytest.fixture(scope="module")
def prefix(weights, tmp_path_factory) -> str:
    """A checkpoint as a training run leaves it."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.ckpt-7"
    meta = {"flags": {"image_size": SIZE, "weight_decay": 1e-4}}
    return checkpoint.save(path, {**weights, "global_step": 7}, meta)


@pytest.fixture(scope="module")
def exported(prefix, tmp_path_factory) -> Path:
    """The folder that export.py makes of it."""
    folder = tmp_path_factory.mktemp("export") / "made"
    done = run_export(f"--model_dir={prefix}", f"--export_dir={folder}", "--top_k_pred=3", PHOTO)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return numpy_preprocessing.crops(PHOTO, SIZE)


def run_export(*arguments: object) -> subprocess.CompletedProcess:
    script = Path(__file__).resolve().parents[3] / "export.py"
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def assert_near(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.slow
def test_onnx_runtime_gives_the_numbers_of_numpy(exported, weights, images, depth):
    from models.export import onnx_file as export_onnx

    found = export_onnx.open_network(exported / "model.onnx")(images.astype(np.float32))
    assert_near(found["features"], numpy_network.features(weights, images, depth))
    assert_near(found["logits"], numpy_network.logits(weights, images, depth))
    assert found["scores"].sum() == pytest.approx(1)


@pytest.mark.slow
def test_the_saved_model_takes_images_and_gives_names(exported, weights, images, depth):
    """Bytes of a photograph in, the best classes out; NumPy does all of it again."""
    served = tf.saved_model.load(str(exported / "saved_model"))
    rotated = Image.open(PHOTO).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    rotated.save(turned, "JPEG", exif=exif, quality=95)
    found = served.signatures["serving_default"](
        image_bytes=tf.constant([PHOTO.read_bytes(), turned.getvalue()])
    )
    logits = numpy_network.logits(weights, images, depth)[0]
    best = np.argsort(-logits)[:3]
    scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    for row, tolerance in ((0, 0.01), (1, 0.05)):  # two decoders; then a second JPEG encoding
        np.testing.assert_array_equal(found["classes"][row], best)
        assert_near(found["scores"].numpy()[row], scores[best], tolerance)
    assert found["names"].numpy()[0].tolist() == [NAMES[c].encode() for c in best]


def transparent(mode: str, image_format: str = "PNG") -> bytes:
    """A photograph that fades out to the right, in `mode`."""
    photo = Image.open(PHOTO).reduce(8)
    photo.putalpha(Image.linear_gradient("L").rotate(90).resize(photo.size))
    options = {"transparency": bytes(range(256))} if mode == "P" else {}
    if mode == "1":
        photo = photo.convert("RGB")
    encoded = io.BytesIO()
    (photo.quantize() if mode == "P" else photo.convert(mode)).save(
        encoded, image_format, **options
    )
    return encoded.getvalue()


@pytest.mark.slow
def test_the_saved_model_decodes_as_the_command_line_does(exported):
    """JPEG and PNG of every mode; alpha, of grays and palettes, too, goes over white."""
    served = tf.saved_model.load(str(exported / "saved_model"))
    classify, predict = (served.signatures[name] for name in ("serving_default", "tensors"))
    prepare = Preparation(SIZE)
    for mode in ("RGBA", "LA", "P", "RGB", "L", "1"):
        data = transparent(mode)
        expected = predict(images=tf.constant(prepare(data)))["scores"].numpy()[0]
        found = classify(image_bytes=tf.constant([data]))
        assert_near(found["scores"].numpy()[0], -np.sort(-expected)[:3])
    for image_format in ("WEBP", "TIFF", "GIF", "BMP"):
        data = transparent("RGB", image_format)
        with pytest.raises(tf.errors.InvalidArgumentError, match="neither JPEG nor PNG"):
            classify(image_bytes=tf.constant([data]))


@pytest.mark.slow
def test_an_export_is_checked_with_the_files_as_they_are(prefix, tmp_path):
    """Transparency, too; what the SavedModel refuses is left out of the comparison and counted."""
    (tmp_path / "a.png").write_bytes(transparent("RGBA"))
    (tmp_path / "b.webp").write_bytes(transparent("RGBA", "WEBP"))
    arguments = (f"--model_dir={prefix}", "--export_format=saved_model", tmp_path)
    done = run_export(*arguments, f"--export_dir={tmp_path / 'made'}")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "made/README.md").read_text()
    assert "2 images (given)" in card and "best scores of the 1 that are JPEG or PNG" in card
    (tmp_path / "c.jpg").write_bytes(b"no image")
    done = run_export(*arguments, f"--export_dir={tmp_path / 'not_made'}")
    assert done.returncode == 1 and "c.jpg: not an image" in done.stderr


@pytest.mark.slow
def test_the_saved_model_takes_tensors_of_any_size(exported, weights, depth):
    served = tf.saved_model.load(str(exported / "saved_model"))
    batch = np.random.default_rng(0).uniform(-1, 1, (2, 47, 65, 3)).astype(np.float32)
    found = served.signatures["tensors"](images=tf.constant(batch))
    assert_near(found["features"], numpy_network.features(weights, batch, depth))
    assert_near(found["logits"], numpy_network.logits(weights, batch, depth))


@pytest.mark.slow
def test_pytorch_names_and_layout(exported, weights, depth):
    state = load_file(exported / "model.safetensors")
    assert len(state) == len(weights) == {14: 87, 50: 267}[depth]
    kernel = weights["stages_1_block_0/conv2_b2/conv2d/kernel"]
    np.testing.assert_array_equal(state["stages.1.blocks.0.conv2.weight"][3, 5], kernel[:, :, 5, 3])
    pairs = {
        "norm.running_var": "global_pool/bn/batch_normalization/moving_variance",
        "stages.0.blocks.0.norm3.weight": "stages_0_block_0/conv3_b2_bn/batch_normalization/gamma",
        "stages.3.blocks.0.downsample.norm.bias":
            "stages_3_block_0/conv1_b1_bn/batch_normalization/beta",
        "head.fc.bias": "logits/dense/bias",
    }  # fmt: skip
    for theirs, ours in pairs.items():
        np.testing.assert_array_equal(state[theirs], weights[ours])
    np.testing.assert_array_equal(state["head.fc.weight"], weights["logits/dense/kernel"].T)
    assert state["stages.2.blocks.0.downsample.conv.weight"].shape == (128, 64, 1, 1)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="EXTRAS=pytorch ./tests/run.sh installs it"
)
def test_pytorch_gives_the_numbers_of_numpy(exported, weights, images, depth, tmp_path):
    """As a user of the folder does it, who has neither TensorFlow nor this project."""
    np.save(tmp_path / "images.npy", images.astype(np.float32).transpose(0, 3, 1, 2).copy())
    program = """
import sys, numpy, torch
from pytorch_network import load
network, images = load("model.safetensors"), torch.from_numpy(numpy.load(sys.argv[1]))
with torch.no_grad():
    numpy.savez(sys.argv[2], features=network.features(images), logits=network(images))
"""
    command = [sys.executable, "-B", "-c", program, tmp_path / "images.npy", tmp_path / "found.npz"]
    subprocess.run(command, cwd=exported, check=True)
    found = np.load(tmp_path / "found.npz")
    assert_near(found["features"], numpy_network.features(weights, images, depth))
    assert_near(found["logits"], numpy_network.logits(weights, images, depth))


@pytest.mark.slow
def test_the_folder_is_complete_and_described(exported, depth):
    files = {path.name for path in exported.iterdir()}
    assert files == {"README.md", "classes.txt", "model.onnx", "model.safetensors",
                     "pytorch_network.py", "saved_model"}  # fmt: skip
    card = (exported / "README.md").read_text()
    assert f"ResNet-{depth} of Tencent ML-Images, 6 classes" in card
    assert "`model.ckpt-7` (step 7)" in card
    assert f"images of {SIZE} x {SIZE} pixels" in card
    assert sha256(exported / "model.onnx") in card
    assert "| model.onnx | " in card and "| saved_model, logits of images | " in card
    assert "`--weight_decay=0.0001`" in card
    assert (exported / "classes.txt").read_text().splitlines() == NAMES
    assert ("no PyTorch here" in card) == (importlib.util.find_spec("torch") is None)


@pytest.mark.parametrize(("flag", "epsilon"), [("", 0.25), ("--batch_norm_epsilon=0.01", 0.01)])
def test_the_epsilon_is_that_of_training_unless_a_flag_says_otherwise(
    call_script, tmp_path, monkeypatch, flag, epsilon
):
    weights = thin_weights()
    meta = {"flags": {"image_size": 32, "batch_norm_epsilon": 0.25}}
    checkpoint.save(tmp_path / "run" / "model.ckpt-0", weights, meta)
    arguments = ["--model_dir=run", "--export_dir=made", "--export_format=onnx", *flag.split()]
    assert call_script("export.py", *arguments) == 0
    from models.export import onnx_file

    images = np.random.default_rng(1).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    found = onnx_file.open_network(tmp_path / "made" / "model.onnx")(images)
    monkeypatch.setattr(numpy_network, "EPSILON", epsilon)
    assert_near(found["logits"], numpy_network.logits(weights, images, 14))


@pytest.mark.slow
def test_weights_come_back_by_the_script(exported, weights, tmp_path):
    result = tmp_path / "imported" / "model.ckpt-0"
    weights_file = f"--import_weights={exported / 'model.safetensors'}"
    done = run_export(weights_file, f"--result={result}", "--batch_norm_epsilon=1e-3")
    assert done.returncode == 0, done.stderr
    opened = checkpoint.read(result)
    assert opened.shapes.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(opened.tensor(name), value, err_msg=name)
    assert opened.meta()["imported_from"].endswith("model.safetensors")
    assert opened.meta()["flags"] == {"batch_norm_epsilon": 1e-3}


def thin_weights() -> dict[str, np.ndarray]:
    return numpy_network.random_weights(variable_shapes(14, 3, width=8))


def write_keras(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """As Keras 2 writes weights: a group a layer, the layer's name again, `:0`."""
    with h5py.File(path, "w") as file:
        for name, value in tensors.items():
            file[f"{name.rsplit('/', 1)[0]}/{name}:0"] = value


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".hdf5"])
def test_keras_and_numpy_files_are_read(tmp_path, suffix):
    path, tensors = tmp_path / f"weights{suffix}", thin_weights()
    if suffix == ".npz":
        np.savez(path, **tensors, global_step=5, **{"logits/dense/bias/Momentum": np.zeros(3)})
    else:
        write_keras(path, tensors)
    found = weight_files.read(path)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_unfit_weight_files_are_one_error(tmp_path):
    tensors = thin_weights()
    del tensors["stages_3_block_0/conv2_b2/conv2d/kernel"]
    np.savez(tmp_path / "lacking.npz", **tensors)
    (tmp_path / "model.pth").write_bytes(b"a pickle")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "cut.npz").write_bytes(b"PK")
    np.savez(tmp_path / "other.npz", dense=np.zeros(3))
    both = {f"{name}/logits/dense/bias": np.zeros(3) for name in ("student", "teacher")}
    np.savez(tmp_path / "two.npz", **both)
    for name, message in {
        "lacking.npz": r"does not fit: 1 missing: stages_3_block_0/conv2_b2/conv2d/kernel",
        "model.pth": r"weights can be read only from \.safetensors, \.npz, \.h5",
        "cut.safetensors": "cut.safetensors cannot be read",
        "cut.npz": "cut.npz cannot be read",
        "absent.h5": "absent.h5 cannot be read",
        "other.npz": "does not hold this network",
        "two.npz": "two arrays have the name logits/dense/bias; the second is teacher/logits",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            weight_files.read(tmp_path / name)


def test_the_report_lists_shapes_statistics_and_flags(prefix, weights, depth):
    lines = list(checkpoint_report.lines(prefix))
    assert lines[1].startswith(f"ResNet-{depth}, width 8, 6 classes, ")
    assert lines[1].endswith("parameters, step 7, with weights only")
    (line,) = (line for line in lines if line.startswith("logits/dense/bias "))
    bias = weights["logits/dense/bias"].astype(np.float64)
    assert line.split()[1:3] == ["[6]", "float32"]
    assert list(map(float, line.split()[3:])) == pytest.approx(
        [bias.mean(), bias.std(), bias.min(), bias.max()], rel=1e-3
    )
    assert (
        f"{len(weights) + 1} tensors, {sum(v.nbytes for v in weights.values()) / 1e6:.1f} MB"
        in lines
    )
    at = lines.index("flags:")
    assert lines[at + 1 : at + 3] == ["  image_size: 64", "  weight_decay: 0.0001"]


def thin_source(**changes) -> exporting.Source:
    network = ResNet(14, 3, width=8)
    encoded = [transparent("L"), transparent("RGBA")]
    options = {
        "network": network,
        "served": network,
        "prepare": lambda contents: tf.zeros([32, 32, 3]) + tf.cast(
            tf.strings.length(contents), tf.float32) / 2000,
        "image_size": 32,
        "epsilon": 1e-5,
        "names": ["a", "b", "c"],
        "calibration": Calibration("sigmoid"),
        "top_k": 5,
        "encoded": encoded,
        "images": np.stack([np.full([32, 32, 3], len(p) / 2000, np.float32) for p in encoded]),
        "tolerance": 1e-4,
    }  # fmt: skip
    return exporting.Source(**{**options, **changes})


@pytest.mark.slow
def test_an_export_that_differs_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"model\.onnx differs from the checkpoint by .*0\.0001"):
        exporting.export_onnx(thin_source(epsilon=0.5), tmp_path)
    with pytest.raises(UserError, match=r"saved_model, logits of images differs"):
        exporting.export_saved_model(thin_source(served=ResNet(14, 3, width=8, seed=1)), tmp_path)
    other_pixels = thin_source(prepare=lambda contents: tf.zeros([32, 32, 3]))
    with pytest.raises(UserError, match="best scores of the 2 that are JPEG or PNG differs"):
        exporting.export_saved_model(other_pixels, tmp_path)


def test_what_is_no_number_is_no_match():
    with pytest.raises(UserError, match="differs"):
        exporting.compare("x", np.array([np.nan]), np.ones(1), 1e-4)
    with pytest.raises(UserError, match="shape"):
        exporting.compare("x", np.ones(2), np.ones(1), 1e-4)
    check = exporting.compare("x", np.array([1.0, 4.0]), np.array([1.0, 3.999]), 1e-3)
    assert check.difference == pytest.approx(0.001 / 3.999)


@pytest.mark.slow
def test_an_existing_folder_is_not_overwritten(prefix, tmp_path):
    done = run_export(f"--model_dir={prefix}", f"--export_dir={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: --export_dir={tmp_path} exists: choose another, or remove it"
    )
    done = run_export(f"--model_dir={prefix}", f"--export_dir={tmp_path}/run[1]")
    assert done.returncode == 1
    assert "takes the path for a glob; choose one without" in done.stderr.splitlines()[-1]
