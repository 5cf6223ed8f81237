"""The augmentation of one image as plain loops over pixels, compiled by Numba.

TensorFlow has no fast operations for this: `tf.image` takes longer to adjust hue or saturation than
to decode the image. The functions here agree with `tf.image` up to rounding and release the GIL.
Between them, images are `planes`, float32 [row, channel, column], so that a loop over columns fills
whole vector registers.
"""

from __future__ import annotations

import functools
import math

import numba
import numpy as np
from numpy import float32, int32

KEEP, ORDER_A, ORDER_B = range(3)  # what `augment` does to the colors
TINY = float32(1e-12)
# A Python number would make the arithmetic float64.
ZERO, ONE, TWO, SIX = float32(0), float32(1), float32(2), float32(6)
HALF, MAX = float32(0.5), float32(255)


def _compiled(function):
    """Compiles a function at its first call, and caches the result on disk if possible.

    `fastmath` vectorizes sums by reordering them; inputs must not contain NaN.
    """
    jit = functools.partial(numba.njit, nogil=True, fastmath=True, error_model="numpy")
    try:
        return jit(cache=True)(function)
    except RuntimeError:  # neither the source tree nor HOME is writable: compiles at each start
        return jit()(function)


@_compiled
def augment(image, params, out):
    """Resizes and mirrors an image, and rotates it and adjusts its colors, as `params` says.

    Args:
        image: uint8 [H, W, 3], contiguous.
        params: one element of type `augment.PARAMS`.
        out: float32 [S, S, 3], filled with the result, in [-1, 1].
    """
    size, brightness, contrast = len(out), params["brightness"], params["contrast"]
    planes = np.empty((size, 3, size), np.float32)
    _resize(image, planes, params["mirror"])
    scale, offset = np.full(3, ONE / MAX), np.zeros(3, np.float32)
    if params["colors"] == ORDER_A:
        rotated = np.empty((size, 3, size), np.float32)
        _rotate(planes, rotated, params["angle"])
        _adjust_colors(rotated, scale, offset + brightness, params["saturation"], params["hue"])
        offset = (ONE - contrast) * _means(rotated)
        _finish(rotated, np.full(3, contrast), offset, out)
    elif params["colors"] == ORDER_B:
        offset = (ONE - contrast) / MAX * _means(planes) + brightness
        _adjust_colors(planes, scale * contrast, offset, params["saturation"], params["hue"])
        _finish(planes, np.ones(3, np.float32), np.zeros(3, np.float32), out)
    else:
        _finish(planes, scale, offset, out)


@_compiled
def _resize(image, planes, mirror):
    """Like `tf.image.resize`: bilinear, half-pixel centers, no antialiasing; values in [0, 255]."""
    height, width, _ = image.shape
    size = planes.shape[0]
    lines = image.reshape(height, 3 * width)
    upper, lower, down = _taps(height, size, False)
    left, right, across = _taps(width, size, mirror)
    line = np.empty(3 * width, np.float32)
    for y in range(size):
        above, below, weight = lines[upper[y]], lines[lower[y]], down[y]
        for x in range(3 * width):
            value = float32(above[x])
            line[x] = value + (float32(below[x]) - value) * weight
        red, green, blue = planes[y, 0], planes[y, 1], planes[y, 2]
        for x in range(size):
            a, b, weight = 3 * left[x], 3 * right[x], across[x]
            red[x] = line[a] + (line[b] - line[a]) * weight
            green[x] = line[a + 1] + (line[b + 1] - line[a + 1]) * weight
            blue[x] = line[a + 2] + (line[b + 2] - line[a + 2]) * weight


@_compiled
def _taps(length, size, mirror):
    """The two source pixels of each target pixel, and the weight of the second."""
    first, second = np.empty(size, np.int64), np.empty(size, np.int64)
    weight = np.empty(size, np.float32)
    scale = float32(length) / float32(size)
    for target in range(size):
        source = (float32(target) + HALF) * scale - HALF
        before = math.floor(source)
        place = size - 1 - target if mirror else target
        first[place], second[place] = max(before, 0), min(before + 1, length - 1)
        weight[place] = source - float32(before)
    return first, second, weight


@_compiled
def _rotate(planes, rotated, angle):
    """Rotates about the center by `angle` radians: nearest pixels, black from outside the image."""
    size = int32(planes.shape[0])
    middle = float32(size - 1) / TWO
    cos, sin = float32(math.cos(angle)), float32(math.sin(angle))
    pixels, places = planes.reshape(-1), np.empty(size, np.int32)
    # `+ size` keeps coordinates above 0, where the conversion to int32, one instruction, is floor.
    start = middle + HALF + float32(size)
    for y in range(size):
        start_x = start - cos * middle - sin * (float32(y) - middle)
        start_y = start - sin * middle + cos * (float32(y) - middle)
        for x in range(size):
            column = int32(int32(start_x + cos * float32(x)) - size)
            row = int32(int32(start_y + sin * float32(x)) - size)
            inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
            places[x] = int32(row * int32(3 * size) + column) if inside else int32(-1)
        red, green, blue = rotated[y, 0], rotated[y, 1], rotated[y, 2]
        for x in range(size):
            place = places[x]
            if place >= 0:
                red[x] = pixels[place]
                green[x] = pixels[place + size]
                blue[x] = pixels[place + 2 * size]
            else:
                red[x] = green[x] = blue[x] = ZERO


@_compiled
def _adjust_colors(planes, scale, offset, saturation, hue):
    """`planes * scale + offset`, then `adjust_saturation`, then `adjust_hue`, in place.

    In HSV, saturation scales a pixel's range below its largest channel, at most down to 0, and hue
    moves where each channel lies in that range: no conversion to HSV and back is needed.
    """
    turn, size = SIX * hue, planes.shape[2]
    for y in range(planes.shape[0]):
        # One array: with three, LLVM has to check for overlap at run time, and then processed them
        # pixel by pixel, ten times slower.
        line, green, blue = planes[y].reshape(-1), size, 2 * size
        for x in range(size):
            r = line[x] * scale[0] + offset[0]
            g = line[green + x] * scale[1] + offset[1]
            b = line[blue + x] * scale[2] + offset[2]
            top = max(r, max(g, b))
            extent = top - min(r, min(g, b))
            inverse = ONE / max(extent, TINY)
            angle = (r - g) * inverse - TWO  # in sixths of a turn from red, within +-3
            angle = (b - r) * inverse + TWO if g == top else angle
            angle = (g - b) * inverse if r == top else angle
            extent = max(min(extent * saturation, top), ZERO)
            line[x] = top - extent * _shade(angle + turn)
            line[green + x] = top - extent * _shade(angle + turn - TWO)
            line[blue + x] = top - extent * _shade(angle + turn + TWO)


@_compiled
def _shade(angle):
    """How far a channel lies below the largest one, 0 to 1, at an angle from its own hue."""
    distance = abs(angle)
    distance = min(distance, SIX - distance)
    return min(max(distance - ONE, ZERO), ONE)


@_compiled
def _means(planes):
    """The mean of each channel, float32 [3]."""
    size = planes.shape[0]
    sums = np.zeros((3, size), np.float32)
    for y in range(size):
        for channel in range(3):
            line, total = planes[y, channel], sums[channel]
            for x in range(size):
                total[x] += line[x]
    means = np.empty(3, np.float32)
    for channel in range(3):
        means[channel] = sums[channel].sum() / float32(size * size)
    return means


@_compiled
def _finish(planes, scale, offset, out):
    """Writes `planes * scale + offset`, clipped to [0, 1] and scaled to [-1, 1], channels last."""
    size = planes.shape[0]
    lines = out.reshape(size, 3 * size)
    for y in range(size):
        line, red, green, blue = lines[y], planes[y, 0], planes[y, 1], planes[y, 2]
        for x in range(size):
            line[3 * x] = _clip_and_scale(red[x] * scale[0] + offset[0])
            line[3 * x + 1] = _clip_and_scale(green[x] * scale[1] + offset[1])
            line[3 * x + 2] = _clip_and_scale(blue[x] * scale[2] + offset[2])


@_compiled
def _clip_and_scale(value):
    return min(max(value, ZERO), ONE) * TWO - ONE
