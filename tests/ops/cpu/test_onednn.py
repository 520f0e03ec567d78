# SPDX-License-Identifier: Apache-2.0
"""oneDNN's objects: layers of one geometry share them in all threads, and they end with the last layer."""

import gc
import threading

import numpy as np
import pytest

from pointdet.ops.cpu.onednn_convolution import shared_convolution
from pointdet.ops.cpu.onednn_library import library_file
from pointdet.ops.cpu.primitives import ConvolutionShape, Epilogue

pytestmark = pytest.mark.skipif(library_file() is None, reason="onednn-cpu-gomp is not installed")

SHAPE = ConvolutionShape(1, 16, 20, 24, 32, kernel=3, pad=1, stride=1)


def existing():
    """How many objects of the library exist."""
    from pointdet.ops.cpu.onednn_library import Handle

    return sum(isinstance(thing, Handle) for thing in gc.get_objects())


def run(primitives):
    rng = np.random.default_rng(0)
    x, w, dy = (
        rng.standard_normal(s, np.float32) for s in ((1, 20, 24, 16), (32, 16, 3, 3), (1, 20, 24, 32))
    )
    y, dx, dw = np.empty_like(dy), np.empty_like(x), np.empty_like(w)
    primitives.forward(x, w, y, Epilogue())
    primitives.backward_data(w, dy, dx, False)
    primitives.backward_weights(x, dy, dw, False)
    return y, dx, dw


def test_layers_of_one_geometry_share_their_primitives():
    one, other = shared_convolution(SHAPE), shared_convolution(SHAPE)
    run(one)
    count = existing()
    run(other)
    assert one is other
    assert existing() == count


def test_everything_ends_with_the_last_layer():
    run(shared_convolution(SHAPE))  # the stream of this thread stays
    before = existing()
    layer = shared_convolution(SHAPE)
    run(layer)
    assert existing() > before + 10
    del layer
    assert existing() == before


def test_what_a_thread_needs_ends_with_it():
    layer = shared_convolution(SHAPE)
    expected, found = run(layer), []
    before = existing()
    thread = threading.Thread(target=lambda: found.extend([*run(layer), existing()]))
    thread.start()
    thread.join()
    *arrays, during = found
    assert during > before
    assert existing() == before
    for array, truth in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(array, truth)
