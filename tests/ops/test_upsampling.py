# SPDX-License-Identifier: Apache-2.0
"""Upsampling against NumPy, and in parts where a map is too large for NNabla's CUDA kernels."""

from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from pointdet.errors import PointDetError
from pointdet.ops import upsampling
from pointdet.ops.mode import Mode
from pointdet.runtime import start

FIRST, LAST = Mode(training=False), Mode(training=False, channel_last=True)
# As on a GPU, see `nhwc_on_the_cpu`.
GPU_FIRST = Mode(training=False, has_channel_last=True)
GPU_LAST = Mode(training=False, channel_last=True, has_channel_last=True)
CPU = Mode(training=False, kernels="blas")
MODES = {"NCHW": FIRST, "NHWC": LAST, "NCHW, GPU": GPU_FIRST, "NHWC, GPU": GPU_LAST, "CPU function": CPU}
UPSAMPLE = {"nearest": upsampling.upsample_nearest, "bilinear": upsampling.upsample_bilinear}


@pytest.fixture(autouse=True)
def nhwc_on_the_cpu(monkeypatch):
    """NNabla's CPU function has no NHWC: transposes surround it."""
    interpolate = F.interpolate

    def with_transposes(x, scale, channel_last, **settings):
        if not channel_last:
            return interpolate(x, scale, **settings)
        return F.transpose(interpolate(F.transpose(x, (0, 3, 1, 2)), scale, **settings), (0, 2, 3, 1))

    monkeypatch.setattr(F, "interpolate", with_transposes)


def random_array(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def variable(array, mode):
    """An NCHW array as a variable in the layout of the mode."""
    return nn.Variable.from_numpy_array(array.transpose(0, 2, 3, 1) if mode.maps_last else array)


def result(output, mode):
    """NCHW."""
    output.forward()
    return output.d.transpose(0, 3, 1, 2) if mode.maps_last else output.d.copy()


def interpolation(size, factor):
    """(size * factor, size): linear interpolation between the centres of cells."""
    centres = (np.arange(size * factor) + 0.5) / factor - 0.5
    return np.maximum(0, 1 - np.abs(np.clip(centres, 0, size - 1)[:, None] - np.arange(size)))


@pytest.mark.parametrize("half", [False, True], ids=["float", "half"])
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("kind", UPSAMPLE)
def test_upsampling(kind, factor, mode, half):
    """Values and gradients; bilinear like PyTorch with align_corners=False."""
    if half and mode.through_python:
        pytest.skip("the CPU functions are float32")
    x, dy = random_array(2, 3, 3, 5), random_array(2, 3, 3 * factor, 5 * factor)
    weights = [
        interpolation(n, factor) if kind == "bilinear" else np.kron(np.eye(n), np.ones((factor, 1)))
        for n in (3, 5)
    ]
    source = variable(x, mode)
    source.need_grad = True
    with nn.context_scope(start().context(half)):
        output = UPSAMPLE[kind](source, factor, mode)
        y = result(output, mode)
        source.grad.zero()
        output.backward(dy.transpose(0, 2, 3, 1) if mode.maps_last else dy)
    dx = source.g.transpose(0, 3, 1, 2) if mode.maps_last else source.g
    expected = np.einsum("yh,xw,bchw->bcyx", *weights, x)
    gradient = np.einsum("yh,xw,bcyx->bchw", *weights, dy)
    tolerance = 4e-3 if half else 1e-6
    np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    np.testing.assert_allclose(dx, gradient, rtol=0, atol=tolerance * np.abs(gradient).max())


def launched_threads(size):
    """The threads that NNabla launches for `size` values (cuda_get_blocks_by_size in its nbla/cuda/common.hpp)."""

    def ceil_div(a, b):
        return (a + b - 1) // b

    blocks = ceil_div(size, 512)
    loops = ceil_div(blocks, 65536)
    return 512 * ceil_div(blocks, loops)


def test_bound():
    """Up to the bound every thread computes at most one value, beyond it one computes two."""
    for size in (upsampling.MAX_VALUES, upsampling.MAX_VALUES - 1, 1000):
        assert launched_threads(size) >= size
    for size in (upsampling.MAX_VALUES + 1, 2 * upsampling.MAX_VALUES, 10**9):
        assert launched_threads(size) < size


@pytest.mark.parametrize(
    ("height", "width", "channels", "at_once"),
    [
        (512, 512, 256, 2048),
        (1448, 1448, 256, 256),  # 2.1 megapixels, the largest square at which 256 channels fit
        (1452, 1452, 256, 254),
        (4096, 4096, 256, 32),
        (23168, 23168, 256, 1),
    ],
)
def test_channels_at_once(height, width, channels, at_once):
    """Of an image of height x width pixels, upsampled from stride 8 or 32 to stride 4."""
    for factor in (2, 8):
        last = (1, height / 4 / factor, width / 4 / factor, channels)
        first = (last[0], last[3], *last[1:3])
        assert upsampling.channels_at_once(last, factor, True) == at_once
        assert upsampling.channels_at_once(first, factor, False) == at_once
        assert height / 4 * width / 4 * at_once <= upsampling.MAX_VALUES


@pytest.mark.parametrize("factor", [2, 8])
@pytest.mark.parametrize("kind", UPSAMPLE)
@pytest.mark.parametrize(("at_once", "parts"), [(7, 1), (4, 2), (3, 3), (1, 7)])
def test_parts_are_the_whole(kind, factor, at_once, parts, monkeypatch):
    """Value and gradient to the last bit. No function exceeds the bound."""
    array = random_array(2, 7, 3, 5)
    dy = random_array(2, 3 * factor, 5 * factor, 7)
    cells = 15 * factor**2
    found = []
    for bound in (upsampling.MAX_VALUES, at_once * cells + cells // 2):
        monkeypatch.setattr(upsampling, "MAX_VALUES", bound)
        x = variable(array, GPU_LAST)
        x.need_grad = True
        x.grad.zero()
        y = UPSAMPLE[kind](x, factor, GPU_LAST)
        y.forward()
        y.backward(dy)
        found.append((y.d.copy(), x.g.copy()))
        sizes = []
        y.visit(lambda f, sizes=sizes: sizes.append((f.info.type_name, f.outputs[0].size // 2)))
        sizes = [size for name, size in sizes if name == "Interpolate"]
    assert len(sizes) == parts and max(sizes) <= bound
    for whole, joined in zip(*found, strict=True):
        np.testing.assert_array_equal(joined, whole)


@pytest.mark.parametrize("mode", [GPU_FIRST, GPU_LAST], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("kind", UPSAMPLE)
def test_a_map_that_is_too_large_is_refused(kind, mode, monkeypatch):
    x = variable(random_array(1, 2, 3, 5), mode)
    monkeypatch.setattr(upsampling, "MAX_VALUES", 59)
    with pytest.raises(
        PointDetError, match=r"6 x 10 cells on a GPU \(more than 59\); .*keep_resolution=false"
    ):
        UPSAMPLE[kind](x, 2, mode)
    for on_cpu in (FIRST, LAST):
        UPSAMPLE[kind](variable(random_array(1, 2, 3, 5), on_cpu), 2, on_cpu).forward()
    monkeypatch.setattr(upsampling, "MAX_VALUES", 60)
    UPSAMPLE[kind](x, 2, mode).forward()


def test_no_other_file_interpolates():
    """All of them would need the bound."""
    source = Path(upsampling.__file__).parents[1]
    files = [path for path in source.rglob("*.py") if "F.interpolate(" in path.read_text(encoding="utf-8")]
    assert files == [Path(upsampling.__file__)]
