# SPDX-License-Identifier: Apache-2.0
"""Many arrays as one flat array: each value once, whatever the sizes are, and wherever its memory is."""

import nnabla as nn
import numpy as np
import pytest

from pointdet.ops.cpu.blocks import BLOCK, Layout, Views

RNG = np.random.default_rng(0)
SIZES = {
    "one": [(1,)],
    "large": [(3, BLOCK - 7)],
    "whole blocks": [(BLOCK,), (2, BLOCK)],
    "a block of two": [(BLOCK // 2,), (BLOCK - BLOCK // 2,)],
    "too large for a block of two": [(BLOCK // 2 + 1,), (BLOCK // 2,)],
    "random": [tuple(RNG.integers(1, 40, RNG.integers(1, 5))) for _ in range(300)],
}


def make(shapes):
    variables = {str(number): nn.Variable(shape) for number, shape in enumerate(shapes)}
    for variable in variables.values():
        variable.d = RNG.standard_normal(variable.shape).astype(np.float32)
        variable.g = RNG.standard_normal(variable.shape).astype(np.float32)
    return variables, Layout({name: variable.shape for name, variable in variables.items()})


def flat(layout, views):
    found = np.full(layout.size, np.nan, np.float32)
    views.refresh()
    for block in layout.blocks:
        found[block.place] = views.read(block, "test")
    return found


@pytest.mark.parametrize("kind", ["data", "grad"])
@pytest.mark.parametrize("shapes", SIZES.values(), ids=SIZES)
def test_read_and_write(shapes, kind):
    variables, layout = make(shapes)
    views = Views(layout, variables, kind)
    found = layout.named(flat(layout, views))
    assert found.keys() == variables.keys()
    for name, variable in variables.items():
        np.testing.assert_array_equal(found[name], getattr(variable, kind).data)
        found[name] += 1
    for block in layout.blocks:
        values = views.read(block, "test")
        values += 1
        if block.joined:
            views.write(block, values)
    for name, variable in variables.items():
        np.testing.assert_array_equal(getattr(variable, kind).data, found[name])


@pytest.mark.parametrize("shapes", SIZES.values(), ids=SIZES)
def test_blocks_fit_the_cache_and_are_few(shapes):
    _, layout = make(shapes)
    sizes = [block.place.stop - block.place.start for block in layout.blocks]
    assert max(sizes) <= BLOCK and sum(sizes) == layout.size
    assert len(sizes) <= 1 + 2 * layout.size / BLOCK


@pytest.mark.parametrize("shapes", [SIZES["random"], SIZES["large"]], ids=["joined", "alone"])
def test_memory_that_moves(shapes):
    """NNabla gives an array new memory for another type. The old memory may belong to another array."""
    variables, layout = make(shapes)
    views = Views(layout, variables, "data")
    flat(layout, views)
    keep = []
    for variable in variables.values():
        variable.data.cast(np.float16)
        keep.append(nn.NdArray.from_numpy_array(np.zeros(variable.shape, np.float32)))  # perhaps there
        variable.data.cast(np.float32)[...] = 2
    np.testing.assert_array_equal(flat(layout, views), 2)
    for variable in variables.values():
        variable.data = nn.NdArray.from_numpy_array(np.full(variable.shape, 3, np.float32))
    np.testing.assert_array_equal(flat(layout, views), 3)
    for block in layout.blocks:
        values = views.read(block, "test")
        values[...] = 4
        if block.joined:
            views.write(block, values)
    assert all((variable.d == 4).all() for variable in variables.values())
