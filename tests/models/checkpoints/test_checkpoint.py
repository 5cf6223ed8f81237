"""Checkpoints: the TF1 `Saver` format both ways, errors in one line, nothing lost half-way."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from models.architecture import is_trainable, variable_shapes
from models.checkpoints import checkpoint
from models.checkpoints.checkpoint import CheckpointError
from models.checkpoints.folder import CheckpointFolder
from models.resnet import ResNet


def thin_tensors(class_num: int = 5, depth: int = 14, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = variable_shapes(depth, class_num, width=8)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def thin_network(class_num: int = 5) -> ResNet:
    return ResNet(14, class_num, width=8)


def training_tensors(step: int) -> dict[str, np.ndarray]:
    """All a pretraining run stores: network, momentum slots, step, two class counters."""
    tensors = thin_tensors()
    slots = {f"{n}/Momentum": v + 1 for n, v in tensors.items() if is_trainable(n)}
    counters = {"Variable": np.arange(5.0), "Variable_1": np.arange(5.0) * 2}
    return {**tensors, **slots, **counters, "global_step": step}


def tf1_save(prefix: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes by a graph, a session and a Saver, as the released code does."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in tensors.items():
            tf.compat.v1.get_variable(name, initializer=value, use_resource=False)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(max_to_keep=200).save(session, str(prefix))


def tf1_restore(prefix: str, shapes: dict[str, tuple], dtypes: dict) -> dict[str, np.ndarray]:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {
            name: tf.compat.v1.get_variable(name, shape, dtypes.get(name, tf.float32))
            for name, shape in shapes.items()
        }
        tf.compat.v1.train.Saver().restore(session, prefix)
        return session.run(variables)


@pytest.mark.slow
def test_a_tf1_saver_loads_ours_with_equal_bytes(tmp_path):
    tensors = training_tensors(step=35_200)
    prefix = checkpoint.save(tmp_path / "ours", tensors, {})
    shapes = {name: np.shape(value) for name, value in tensors.items()}
    dtypes = {"global_step": tf.int64, "Variable": tf.float64, "Variable_1": tf.float64}
    loaded = tf1_restore(prefix, shapes, dtypes)
    assert loaded.pop("global_step") == tensors.pop("global_step")
    for name, value in tensors.items():
        assert loaded[name].tobytes() == value.tobytes(), name


def test_ours_loads_what_a_tf1_saver_wrote(tmp_path):
    tensors = thin_tensors()
    tf1_save(tmp_path / "released", tensors)
    network = thin_network()
    checkpoint.restore(tmp_path / "released", network.variables_by_name())
    for name, variable in network.variables_by_name().items():
        np.testing.assert_array_equal(variable.numpy(), tensors[name], err_msg=name)
    assert checkpoint.read(tmp_path / "released").meta() == {}


def test_variables_and_numbers_come_back_with_their_types(tmp_path):
    half = tf.Variable([1.5, 2.5], dtype=tf.bfloat16)
    tensors = {"a": half, "b": tf.constant([1, 2], tf.int32), "c": 7, "d": 0.5, "e": np.float16(2)}
    prefix = checkpoint.save(tmp_path / "x", tensors, {"loss_scale": 1024.0, "flags": {"lr": 0.1}})
    opened = checkpoint.read(prefix)
    dtypes = {name: opened.tensor(name).dtype for name in tensors}
    assert [str(dtypes[n]) for n in "abcde"] == ["bfloat16", "int32", "int64", "float64", "float16"]
    assert opened.meta()["loss_scale"] == 1024.0
    assert opened.meta()["flags"] == {"lr": 0.1}
    assert opened.meta()["versions"]["tensorflow"] == tf.__version__


def test_describe_reads_depth_classes_width_and_step(tmp_path):
    full = checkpoint.describe(checkpoint.save(tmp_path / "full", training_tensors(123), {}))
    assert full[1:] == ("resnet", 14, 5, 8, 123, True, False)
    bare = checkpoint.describe(checkpoint.save(tmp_path / "bare", thin_tensors(7, 101), {}))
    assert bare[1:] == ("resnet", 101, 7, 8, None, False, False)


def test_disagreement_with_a_flag_names_both_numbers(tmp_path):
    prefix = checkpoint.save(tmp_path / "x", thin_tensors(10), {})
    described = checkpoint.describe(prefix)
    assert described.check(resnet_size=14, class_num=10).check() == described
    with pytest.raises(CheckpointError, match=r"has 10 classes, --class_num is 11166$"):
        described.check(class_num=11166)
    with pytest.raises(CheckpointError, match=r"has depth 14, --resnet_size is 101$"):
        described.check(resnet_size=101)
    with pytest.raises(CheckpointError, match=r"x has 10 classes, --class_num is 5$"):
        checkpoint.restore(prefix, thin_network(5).variables_by_name())


def test_every_difference_is_listed_and_nothing_is_assigned(tmp_path):
    tensors = thin_tensors()
    del tensors["logits/dense/bias"]
    tensors["global_pool/bn/batch_normalization/gamma"] = np.zeros(3, np.float32)
    tensors["init/init_conv/bias"] = np.zeros(1, np.float32)
    prefix = checkpoint.save(tmp_path / "x", tensors, {})
    network = thin_network()
    before = {name: v.numpy() for name, v in network.variables_by_name().items()}
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore(prefix, network.variables_by_name())
    assert str(caught.value) == (
        f"checkpoint {prefix} does not fit: 1 missing: logits/dense/bias; "
        "1 extra: init/init_conv/bias; 1 of another shape: "
        "global_pool/bn/batch_normalization/gamma [3] instead of [256]"
    )
    for name, variable in network.variables_by_name().items():
        np.testing.assert_array_equal(variable.numpy(), before[name])


def test_long_lists_of_differences_are_cut(tmp_path):
    prefix = checkpoint.save(tmp_path / "x", training_tensors(1), {})
    with pytest.raises(CheckpointError, match=r"56 extra: (\S+, ){7}\S+ and 48 more$"):
        checkpoint.restore(prefix, thin_network().variables_by_name())


def test_skip_patterns_leave_both_sides_alone(tmp_path):
    prefix = checkpoint.save(tmp_path / "x", training_tensors(1), {})
    network = thin_network(class_num=9)
    bias = network.variables_by_name()["logits/dense/bias"].numpy()
    skip = (*checkpoint.TRAINING_STATE, "logits/*")
    checkpoint.restore(prefix, network.variables_by_name(), skip=skip)
    kernel = network.variables_by_name()["init/init_conv/conv2d/kernel"]
    np.testing.assert_array_equal(kernel, thin_tensors()["init/init_conv/conv2d/kernel"])
    np.testing.assert_array_equal(network.variables_by_name()["logits/dense/bias"], bias)


def test_moving_averages_are_read_in_place_of_the_weights(tmp_path):
    tensors = thin_tensors()
    averages = {f"{n}{checkpoint.AVERAGE}": v * 3 for n, v in tensors.items() if is_trainable(n)}
    prefix = checkpoint.save(tmp_path / "x", {**tensors, **averages, "global_step": 4}, {})
    network = thin_network()
    variables = network.variables_by_name()
    checkpoint.restore(prefix, variables, skip=checkpoint.TRAINING_STATE, average=True)
    for name, variable in variables.items():
        expected = tensors[name] * (3 if is_trainable(name) else 1)
        np.testing.assert_array_equal(variable, expected.astype(np.float32))
    checkpoint.restore(prefix, variables, skip=checkpoint.TRAINING_STATE)
    np.testing.assert_array_equal(variables["logits/dense/bias"], tensors["logits/dense/bias"])
    assert checkpoint.describe(prefix).has_average


def test_missing_moving_averages_are_an_error(tmp_path):
    prefix = checkpoint.save(tmp_path / "x", thin_tensors(), {})
    with pytest.raises(CheckpointError, match=r"no moving average of .*kernel"):
        checkpoint.read(prefix, average=True)


def drop_index(prefix: str) -> None:
    os.unlink(f"{prefix}.index")


def cut_index(prefix: str) -> None:
    os.truncate(f"{prefix}.index", 40)


def cut_data(prefix: str) -> None:
    os.truncate(f"{prefix}.data-00000-of-00001", 40)


def drop_data(prefix: str) -> None:
    os.unlink(f"{prefix}.data-00000-of-00001")


def flip_a_byte(prefix: str) -> None:
    path = Path(f"{prefix}.data-00000-of-00001")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_index, r"no checkpoint .*x: .*x\.index is missing"),
        (cut_index, r"x\.index cannot be read"),
        (cut_data, r"x is damaged, \S+ cannot be read"),
        (drop_data, r"x is damaged, \S+ cannot be read: .*No such file"),
        (flip_a_byte, r"x is damaged, \S+ cannot be read: .*[Cc]hecksum"),
    ],
)
def test_damaged_files_are_one_error(tmp_path, damage, message):
    prefix = checkpoint.save(tmp_path / "x", thin_tensors(), {})
    damage(prefix)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.restore(prefix, thin_network().variables_by_name())
    assert "\n" not in str(caught.value)


def test_another_networks_checkpoint_is_refused(tmp_path):
    prefix = checkpoint.save(tmp_path / "x", {"dense/kernel": np.zeros(3)}, {})
    with pytest.raises(CheckpointError, match=r"does not hold this network.*dense/kernel"):
        checkpoint.describe(prefix)
    tensors = thin_tensors()
    tensors["stages_0_block_1/conv1_b2/conv2d/kernel"] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError, match=r"\(2, 1, 1, 1\) blocks"):
        checkpoint.describe(checkpoint.save(tmp_path / "y", tensors, {}))


def test_find_takes_a_prefix_a_file_or_a_folder(tmp_path):
    prefix = CheckpointFolder(tmp_path).save(20, thin_tensors(), {})
    for name in ("", ".index", ".json", ".data-00000-of-00001", ".meta"):
        assert checkpoint.find(f"{prefix}{name}") == prefix
    assert checkpoint.find(tmp_path) == prefix
    with pytest.raises(CheckpointError, match=r"no such folder, and no file .*other\.index$"):
        checkpoint.find(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"\(checkpoints/README\.md says where to get it\)"):
        checkpoint.find(tmp_path / "ckpt-resnet101-mlimages")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint in folder"):
        checkpoint.find(tmp_path / "empty")


def test_weights_of_other_formats_are_told_from_missing_ones(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint.find(tmp_path / "weights.h5")
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF")
    with pytest.raises(CheckpointError, match=r"export\.py --import_weights=.*weights\.h5"):
        checkpoint.find(tmp_path / "weights.h5")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable = tf.compat.v1.get_variable("a", initializer=[1.0])
        session.run(variable.initializer)
        saver = tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V1)
        (tmp_path / "v1").mkdir()
        prefix = saver.save(session, f"{tmp_path}/v1/model.ckpt", global_step=7)
    for path in (prefix, tmp_path / "v1"):
        with pytest.raises(CheckpointError, match=r"model\.ckpt-7 is in TensorFlow's old V1"):
            checkpoint.find(path)


def test_a_moved_folder_still_has_its_latest(tmp_path):
    (tmp_path / "old").mkdir()
    tf1_save(tmp_path / "old" / "resnet.ckpt-7", {"a": np.zeros(1, np.float32)})
    os.rename(tmp_path / "old", tmp_path / "new")
    assert checkpoint.find(tmp_path / "new") == str(tmp_path / "new" / "resnet.ckpt-7")
