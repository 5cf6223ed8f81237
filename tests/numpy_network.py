"""The network of spec section 2 in plain NumPy, float64: what tests compare ours with.

Written from the specification alone: it shares no code and no list of names with models/.
"""

import numpy as np

STAGES = {14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
EPSILON = 1e-5

Weights = dict[str, np.ndarray]


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """x [B, H, W, I], kernel [k, k, I, O]; (k - 1) // 2 zeros before, the rest after."""
    size = kernel.shape[0]
    before = (size - 1) // 2
    side = (before, size - 1 - before)
    padded = np.pad(x, ((0, 0), side, side, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    # [B, H, W, I, k, k] times [k, k, I, O]
    return np.tensordot(windows[:, ::stride, ::stride], kernel, axes=((4, 5, 3), (0, 1, 2)))


def norm_relu(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    part = {p: weights[f"{name}/batch_normalization/{p}"] for p in
            ("gamma", "beta", "moving_mean", "moving_variance")}  # fmt: skip
    normal = (x - part["moving_mean"]) / np.sqrt(part["moving_variance"] + EPSILON)
    return np.maximum(normal * part["gamma"] + part["beta"], 0)


def features(weights: Weights, images: np.ndarray, depth: int) -> np.ndarray:
    """[B, 2048] of images [B, H, W, 3]."""
    x = convolve(images.astype(np.float64), weights["init/init_conv/conv2d/kernel"], 2)
    for stage, count in enumerate(STAGES[depth]):
        for block in range(count):
            stride = 2 if block == 0 else 1
            base = f"stages_{stage}_block_{block}"
            y = x
            for conv, conv_stride in (("conv1_b2", 1), ("conv2_b2", stride), ("conv3_b2", 1)):
                y = norm_relu(y, weights, f"{base}/{conv}_bn")
                y = convolve(y, weights[f"{base}/{conv}/conv2d/kernel"], conv_stride)
            if block == 0:
                x = norm_relu(x, weights, f"{base}/conv1_b1_bn")
                x = convolve(x, weights[f"{base}/conv1_b1/conv2d/kernel"], stride)
            x = x + y
    return norm_relu(x, weights, "global_pool/bn").mean(axis=(1, 2))


def logits(weights: Weights, images: np.ndarray, depth: int) -> np.ndarray:
    """[B, C] of images [B, H, W, 3]."""
    pooled = features(weights, images, depth)
    return pooled @ weights["logits/dense/kernel"] + weights["logits/dense/bias"]


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Weights:
    """Float32 weights under which the signal neither dies nor explodes at any depth."""
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith(("gamma", "moving_variance")):
            return rng.uniform(0.5, 1.5, shape)
        if name.endswith("kernel"):
            return rng.standard_normal(shape, np.float32) / np.sqrt(np.prod(shape[:-1]))
        return rng.normal(0, 0.1, shape)

    return {name: draw(name, shape).astype(np.float32) for name, shape in shapes.items()}
