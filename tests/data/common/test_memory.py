"""Memory that is lent again once nobody holds it, not earlier."""

import numpy as np
import tensorflow as tf

from data.common.memory import ALIGNMENT, Recycler


def address(array):
    return array.ctypes.data


def test_memory_comes_back_with_the_array():
    recycler = Recycler((3, 5))
    first, second = recycler.take(), recycler.take()
    assert first.shape == (3, 5)
    assert first.dtype == np.float32
    assert address(first) != address(second)
    assert address(first) % ALIGNMENT == address(second) % ALIGNMENT == 0
    expected = address(first)
    del first
    assert address(recycler.take()) == expected


def test_a_view_of_a_view_keeps_the_memory():
    recycler = Recycler((3, 5))
    view = recycler.take().reshape(5, 3)[1:][0]
    view[:] = 7
    recycler.take()[:] = 8
    assert view.tolist() == [7, 7, 7]


def test_a_tensor_takes_the_memory_over_and_keeps_it():
    recycler = Recycler((64, 64))
    taken = []

    def fill(value):
        array = recycler.take()
        array[:] = value
        taken.append(address(array))
        return array

    numbers = tf.data.Dataset.range(40).map(lambda number: tf.cast(number, tf.float32))
    dataset = numbers.map(lambda number: tf.numpy_function(fill, [number], tf.float32))
    kept = list(dataset.take(10))
    assert [tensor.numpy().mean() for tensor in kept] == list(range(10))
    assert len(set(taken)) == 10
    for number, tensor in enumerate(dataset):
        assert tensor.numpy().min() == tensor.numpy().max() == number
    assert len(set(taken)) < 10 + 20  # TensorFlow lets go a little later
