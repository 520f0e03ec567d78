# SPDX-License-Identifier: Apache-2.0
"""The colour matrix in NumPy against NNabla's functions and a computation in float64."""

import nnabla as nn
import numpy as np
import pytest

from pointdet.ops.colour import colour as apply_colour
from pointdet.ops.cpu.colour import BLOCK, colour
from pointdet.ops.mode import Mode

SIZES = [(1, 1, 1), (2, 5, 7), (3, 64, 32), (1, 2, BLOCK // 2), (2, 3, BLOCK // 2 + 1)]


def make(batch, height, width, channels):
    rng = np.random.default_rng(0)
    images, matrix = nn.Variable((batch, height, width, 3)), nn.Variable((batch, channels, 4))
    images.data.cast(np.uint8)[...] = rng.integers(0, 256, images.shape)
    matrix.data.cast(np.float32)[...] = rng.standard_normal(matrix.shape) / 60
    matrix.d[:, 3:] = 0  # the channel that pads an image
    return images, matrix


@pytest.mark.parametrize("channel_last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_equals_nnabla(size, channels, channel_last):
    images, matrix = make(*size, channels)
    found = colour(images, matrix, channel_last)
    theirs = apply_colour(images, matrix, Mode(training=True, channel_last=channel_last))
    found.forward()
    theirs.forward()
    pixels, factors = images.data.data.astype(np.float64), matrix.d.astype(np.float64)
    expected = np.einsum("bhwk,bck->bchw", pixels, factors[:, :, :3]) + factors[:, :, 3:, None]
    if channel_last:
        expected = expected.transpose(0, 2, 3, 1)
    assert found.shape == theirs.shape == expected.shape
    np.testing.assert_allclose(found.d, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(found.d, theirs.d, rtol=0, atol=4e-6)
    assert channels == 3 or not found.d[..., 3].any() if channel_last else not found.d[:, 3:].any()


def test_other_images_in_the_same_graph():
    images, matrix = make(2, 9, 8, 3)
    found = colour(images, matrix, False)
    found.forward(clear_no_need_grad=True)
    first = found.d.copy()
    images.data.cast(np.uint8)[...] = 255 - images.data.data
    found.forward(clear_no_need_grad=True)
    both = 255 * matrix.d[:, :, :3].sum(2) + 2 * matrix.d[:, :, 3]
    np.testing.assert_allclose(
        first + found.d, np.broadcast_to(both[..., None, None], found.shape), atol=1e-5
    )


@pytest.mark.parametrize("which", [0, 1])
def test_no_gradient(which):
    inputs = make(1, 4, 4, 3)
    assert not colour(*inputs, False).need_grad
    inputs[which].need_grad = True
    with pytest.raises(ValueError, match="the colour matrix has no gradients"):
        colour(*inputs, False)
