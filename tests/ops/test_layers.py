# SPDX-License-Identifier: Apache-2.0
"""Layers against NumPy in both layouts; names and initial values of their parameters."""

from dataclasses import replace

import nnabla as nn
import numpy as np
import pytest

from pointdet.ops import layers
from pointdet.ops.colour import colour as apply_colour
from pointdet.ops.mode import Mode

FIRST, LAST = Mode(training=False), Mode(training=False, channel_last=True)
MODES = {
    "NCHW": FIRST,
    "NHWC": LAST,
    "NCHW, BLAS": replace(FIRST, kernels="blas"),
    "NHWC, BLAS": replace(LAST, kernels="blas"),
    "inference, BLAS": replace(FIRST, kernels="blas", backward=False),
}


def random_array(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def variable(array, mode=FIRST):
    """An NCHW array as a variable in the layout of the mode."""
    return nn.Variable.from_numpy_array(array.transpose(0, 2, 3, 1) if mode.maps_last else array)


def result(output, mode=FIRST):
    """NCHW."""
    output.forward()
    return output.d.transpose(0, 3, 1, 2) if mode.maps_last else output.d.copy()


def set_parameters(arrays, mode=FIRST):
    """Set the parameters from NCHW arrays."""
    for name, array in arrays.items():
        parameter = nn.get_parameters(grad_only=False)[name]
        turned = mode.channel_last and array.ndim == 4
        parameter.d = array.transpose(0, 2, 3, 1) if turned else array


def numpy_convolution(x, w, stride, pad):
    """(B, C, H, W), (O, C, k, k) -> (B, O, h, w), float64."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows[:, :, ::stride, ::stride], w.astype(np.float64))


def numpy_deconvolution(x, w):
    """4 x 4, stride 2, pad 1: every cell adds its kernel to a map of twice the size."""
    b, _, height, width = x.shape
    out = np.zeros((b, w.shape[1], 2 * height + 2, 2 * width + 2))
    for y in range(height):
        for x_ in range(width):
            part = np.einsum("bc,coij->boij", x[:, :, y, x_].astype(np.float64), w.astype(np.float64))
            out[:, :, 2 * y : 2 * y + 4, 2 * x_ : 2 * x_ + 4] += part
    return out[:, :, 1:-1, 1:-1]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_convolution(mode, kernel, stride):
    x, w, b = random_array(2, 3, 9, 12), random_array(5, 3, kernel, kernel), random_array(5)
    output = layers.conv(variable(x, mode), 5, kernel, mode, stride=stride, bias_init=layers.constant(0))
    set_parameters({"conv/W": w, "conv/b": b}, mode)
    expected = numpy_convolution(x, w, stride, kernel // 2) + b[:, None, None]
    np.testing.assert_allclose(result(output, mode), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_deconvolution_norm_and_relu(mode):
    x, w = random_array(2, 3, 4, 5), random_array(3, 6, 4, 4)
    arrays = {
        "deconv/W": w,
        "bn/beta": random_array(1, 6, 1, 1),
        "bn/gamma": random_array(1, 6, 1, 1, seed=1),
        "bn/mean": random_array(1, 6, 1, 1, seed=2),
        "bn/var": random_array(1, 6, 1, 1, seed=3) ** 2,
    }
    output = layers.deconv_norm(variable(x, mode), 6, mode)
    set_parameters(arrays, mode)
    h = numpy_deconvolution(x, w)
    h = (h - arrays["bn/mean"]) / np.sqrt(arrays["bn/var"] + 1e-5) * arrays["bn/gamma"] + arrays["bn/beta"]
    np.testing.assert_allclose(result(output, mode), np.maximum(h, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channel_last", [False, True], ids=["NCHW", "NHWC"])
def test_norm_in_training(channel_last):
    """Batch statistics normalise. The running ones get weight 0.1 of them (unbiased variance)."""
    mode = Mode(training=True, channel_last=channel_last)
    x = 3 + 2 * random_array(4, 3, 5, 6)
    output = result(layers.norm(variable(x, mode), mode), mode)
    mean, var = x.mean((0, 2, 3), dtype=np.float64), x.var((0, 2, 3), dtype=np.float64)
    expected = (x - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
    parameters = nn.get_parameters(grad_only=False)
    count = x.size // 3
    np.testing.assert_allclose(parameters["bn/mean"].d.ravel(), 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(
        parameters["bn/var"].d.ravel(), 0.9 + 0.1 * var * count / (count - 1), rtol=1e-5
    )


@pytest.mark.parametrize("mode", [FIRST, LAST], ids=["NCHW", "NHWC"])
def test_max_pool(mode):
    x = random_array(2, 3, 8, 10)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    pooled = layers.max_pool(variable(x, mode), mode, kernel=3, stride=2, pad=1)
    np.testing.assert_array_equal(result(pooled, mode), windows.max((4, 5)))


@pytest.mark.parametrize("mode", [FIRST, LAST], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colour(mode, channels):
    """Each image has its own matrix."""
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    matrix = random_array(2, channels, 4)
    pixels, colour = nn.Variable(images.shape), nn.Variable.from_numpy_array(matrix)
    pixels.data.cast(np.uint8)[...] = images
    expected = np.einsum("bcd,bhwd->bchw", matrix[..., :3], images.astype(np.float64))
    expected += matrix[..., 3][:, :, None, None]
    output = result(apply_colour(pixels, colour, mode), mode)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-4)


def test_to_first():
    x, first = random_array(2, 3, 4, 5), variable(random_array(1, 1, 1, 1))
    assert layers.to_first(first, FIRST) is first
    np.testing.assert_array_equal(result(layers.to_first(variable(x, LAST), LAST)), x)
    assert layers.to_last(first, FIRST) is first
    np.testing.assert_array_equal(result(layers.to_last(variable(x), LAST), LAST), x)


@pytest.mark.parametrize("mode", [FIRST, LAST], ids=["NCHW", "NHWC"])
def test_names_and_shapes(mode):
    with nn.parameter_scope("stem"):
        layers.conv_norm(variable(random_array(1, 2, 8, 8), mode), 8, 3, mode)
        layers.deconv_norm(variable(random_array(1, 2, 8, 8), mode), 8, mode)
    statistics = (1, 1, 1, 8) if mode.channel_last else (1, 8, 1, 1)
    assert {name: v.shape for name, v in nn.get_parameters(grad_only=False).items()} == {
        "stem/conv/W": (8, 3, 3, 2) if mode.channel_last else (8, 2, 3, 3),
        "stem/deconv/W": (2, 4, 4, 8) if mode.channel_last else (2, 8, 4, 4),
        **{f"stem/bn/{name}": statistics for name in ("beta", "gamma", "mean", "var")},
    }
    trainable = {"stem/conv/W", "stem/deconv/W", "stem/bn/beta", "stem/bn/gamma"}
    assert set(nn.get_parameters()) == trainable


@pytest.mark.parametrize(
    ("init", "deviation"),
    [
        (layers.he_out, np.sqrt(2 / (64 * 9))),
        (layers.uniform_in, 1 / np.sqrt(32 * 9) / np.sqrt(3)),
        (layers.small_normal, 0.001),
    ],
)
def test_initialisers(init, deviation):
    nn.seed(0)
    values = init((64, 32, 3, 3))
    assert values.std() == pytest.approx(deviation, rel=0.02)
    assert abs(values.mean()) < 0.02 * deviation
    if init is layers.uniform_in:
        assert np.abs(values).max() <= 1 / np.sqrt(32 * 9)


def test_random_initial_values_do_not_depend_on_the_layout():
    values = []
    for mode in (FIRST, LAST):
        nn.clear_parameters()
        nn.seed(5)
        values.append(layers.weight("conv", 4, 3, 5, mode, layers.he_out).d.copy())
    np.testing.assert_array_equal(values[0].transpose(0, 2, 3, 1), values[1])
