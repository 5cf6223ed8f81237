"""Reusable buffers: fresh memory costs more page faults than filling it."""

from __future__ import annotations

import weakref

import numpy as np

ALIGNMENT = 64  # bytes; TensorFlow takes over arrays so aligned without a copy


class Recycler:
    """Lends float32 arrays of one shape; their memory comes back when nobody holds them.

    Safe from several threads. It keeps as much memory as was ever lent at the same time.
    """

    def __init__(self, shape: tuple[int, ...]):
        self._shape = shape
        self._free: list[np.ndarray] = []

    def take(self) -> np.ndarray:
        """An array with arbitrary content, aligned to `ALIGNMENT`."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = _aligned(self._shape)
        # The array between `memory` and any view of the lent one: NumPy lets views of views refer
        # to the array below the first memoryview, so this one lives as long as its last view.
        lent = np.asarray(memoryview(memory))
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return lent


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    count, step = int(np.prod(shape)), ALIGNMENT // 4
    memory = np.empty(count + step, np.float32)
    start = -(memory.ctypes.data // 4) % step
    return memory[start : start + count].reshape(shape)
