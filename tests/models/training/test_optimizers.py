"""SGD with momentum against NumPy, and weight decay by name."""

import numpy as np
import pytest
import tensorflow as tf

from data.common.errors import UserError
from models.resnet import ResNet
from models.training.optimizers import Optimizer, OptimizerOptions, WeightAverage, decay_rates

KERNEL = "init/init_conv/conv2d/kernel"
GAMMA = "stages_0_block_0/conv1_b2_bn/batch_normalization/gamma"
BETA = "global_pool/bn/batch_normalization/beta"
BIAS = "logits/dense/bias"


def make_variables():
    rng = np.random.default_rng(0)
    shapes = {KERNEL: (3, 2), GAMMA: (2,), BETA: (2,), BIAS: (4,)}
    return {name: tf.Variable(rng.normal(size=s).astype("f4")) for name, s in shapes.items()}


def make_gradients(seed):
    rng = np.random.default_rng(seed)
    return {n: rng.normal(size=v.shape).astype("f4") for n, v in make_variables().items()}


def numpy_steps(options, rates, gradients, rate):
    """Momentum SGD written out: the values after one step for each of `gradients`."""
    values = {name: v.numpy().astype("f8") for name, v in make_variables().items()}
    momentum = dict.fromkeys(values, 0.0)
    for step in gradients:
        for name, value in values.items():
            gradient = step[name] + rates.get(name, 0.0) * value
            momentum[name] = options.opt_momentum * momentum[name] + gradient
            multiplier = options.head_lr_mult if name == BIAS else options.backbone_lr_mult
            values[name] = value - rate * multiplier * momentum[name]
    return values, momentum


@pytest.mark.parametrize(
    "options",
    [
        OptimizerOptions(weight_decay=0.1),
        OptimizerOptions(weight_decay=0.1, bn_decay_fraction=0.1),
        OptimizerOptions(weight_decay=0.0, head_lr_mult=10.0, backbone_lr_mult=0.5),
    ],
)
def test_momentum_steps_equal_numpy(options):
    rates = {KERNEL: options.weight_decay, BIAS: options.weight_decay}
    rates |= dict.fromkeys([GAMMA, BETA], options.weight_decay * options.bn_decay_fraction)
    gradients = [make_gradients(1), make_gradients(2)]
    variables = make_variables()
    optimizer = Optimizer(variables, options)
    apply = tf.function(optimizer.apply)
    for step in gradients:
        apply(step, 0.05)
    values, momentum = numpy_steps(options, rates, gradients, 0.05)
    for name, variable in variables.items():
        np.testing.assert_allclose(variable, values[name], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(
            optimizer.slots[name + "/Momentum"], momentum[name], rtol=1e-6, atol=1e-7
        )


def test_sgd_has_no_momentum():
    variables, gradients = make_variables(), make_gradients(3)
    optimizer = Optimizer(variables, OptimizerOptions(optimizer="sgd", weight_decay=0.0))
    before = {name: v.numpy() for name, v in variables.items()}
    optimizer.apply(gradients, 0.1)
    assert optimizer.slots == {}
    for name, variable in variables.items():
        np.testing.assert_allclose(variable, before[name] - 0.1 * gradients[name], rtol=1e-6)


def test_gradient_clipping_bounds_the_global_norm():
    variables, gradients = make_variables(), make_gradients(4)
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    options = OptimizerOptions(optimizer="sgd", weight_decay=0.0, gradient_clip=norm / 4)
    before = {name: v.numpy() for name, v in variables.items()}
    Optimizer(variables, options).apply(gradients, 1.0)
    for name, variable in variables.items():
        np.testing.assert_allclose(variable, before[name] - gradients[name] / 4, rtol=1e-5)


def test_pretraining_decays_exactly_what_is_not_batch_norm():
    names = list(ResNet(14, 5, width=8).trainable_by_name())
    rates = decay_rates(names, 1e-4)
    assert set(rates) == {name for name in names if name.split("/")[-1] in ("kernel", "bias")}
    assert set(rates.values()) == {1e-4}
    assert "logits/dense/bias" in rates


def test_finetuning_decays_gamma_and_beta_by_a_tenth():
    names = list(ResNet(14, 5, width=8).trainable_by_name())
    rates = decay_rates(names, 1e-4, bn_fraction=0.1)
    assert set(rates) == set(names)
    for name, rate in rates.items():
        is_norm = name.split("/")[-1] in ("gamma", "beta")
        assert rate == pytest.approx(1e-5 if is_norm else 1e-4), name


def test_l2_loss_is_half_the_squares():
    variables = {KERNEL: tf.Variable([3.0, 4.0]), GAMMA: tf.Variable([100.0])}
    optimizer = Optimizer(variables, OptimizerOptions(weight_decay=0.1))
    assert optimizer.l2_loss().numpy() == pytest.approx(1.25)
    assert Optimizer(variables, OptimizerOptions(weight_decay=0.0)).l2_loss().numpy() == 0


def test_missing_gradient_is_named():
    gradients = make_gradients(5)
    gradients[BIAS] = None
    with pytest.raises(UserError, match=BIAS):
        Optimizer(make_variables(), OptimizerOptions()).apply(gradients, 0.1)


def test_weight_average_follows_the_weights():
    variable = tf.Variable([1.0])
    average = WeightAverage({KERNEL: variable}, decay=0.5)
    slot = average.slots[KERNEL + "/ExponentialMovingAverage"]
    assert slot.numpy() == [1.0]
    variable.assign([2.0])
    average.update(0)  # decay (1+0)/(10+0) = 0.1 while warming up
    assert slot.numpy() == pytest.approx([1.9])
    average.update(1000)  # decay 0.5
    assert slot.numpy() == pytest.approx([1.95])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"optimizer": "adam"}, "mom"), ({"weight_decay": -1.0}, "weight_decay")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        OptimizerOptions(**options)


def test_wrong_average_decay_is_refused():
    with pytest.raises(UserError, match="ema_decay"):
        WeightAverage({}, 1.0)
