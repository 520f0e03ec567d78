# SPDX-License-Identifier: Apache-2.0
"""Adam and the moving average in blocks against NNabla and NumPy: large arrays alone, small arrays joined."""

import nnabla as nn
import nnabla.solvers as S
import numpy as np
import pytest

from pointdet.ops.cpu.blocks import BLOCK, Layout, Views
from pointdet.ops.cpu.update import BlockedAdam, update_average

SHAPES = {"blocks": (3, BLOCK - 7), "one": (BLOCK,), "single": (1,), "vector": (31,), "map": (1, 8, 1, 1)}


def make():
    rng = np.random.default_rng(0)
    parameters = {}
    for name, shape in SHAPES.items():
        parameters[name] = nn.Variable(shape, need_grad=True)
        parameters[name].d = rng.standard_normal(shape)
    adam = S.Adam()
    adam.set_parameters(parameters)
    return adam, parameters


def assert_equal(ours, our_parameters, theirs, their_parameters, updates):
    for name, variable in their_parameters.items():
        np.testing.assert_allclose(our_parameters[name].d, variable.d, rtol=0, atol=1e-6)
        expected, found = theirs.get_states()[name], ours.get_states()[name]
        assert found.t == expected.t == updates[name]
        for moment in ("mean", "var"):
            np.testing.assert_allclose(
                found.pstate[moment].d, expected.pstate[moment].d, rtol=1e-5, atol=3e-8
            )


def nothing(parameters):
    """The arrays stay where they are."""


def cast(parameters):
    """NNabla gives the values and the gradients new memory."""
    for variable in parameters.values():
        for array in (variable.data, variable.grad):
            array.cast(np.float16)
            array.cast(np.float32)


def replace(parameters):
    """The variables get other arrays."""
    for variable in parameters.values():
        variable.data = nn.NdArray.from_numpy_array(variable.d.astype(np.float32) + 1)
        variable.grad = nn.NdArray.from_numpy_array(variable.g.astype(np.float32))


@pytest.mark.parametrize("between", [nothing, cast, replace])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_equals_nnabla(between, weight_decay):
    theirs, their_parameters = make()
    ours, our_parameters = make()
    blocked = BlockedAdam(ours)
    rng = np.random.default_rng(1)
    for step in range(5):
        for parameters in (their_parameters, our_parameters):
            between(parameters)
        for name, shape in SHAPES.items():
            gradient = rng.standard_normal(shape) * 10.0 ** -(2 * step)
            their_parameters[name].g = our_parameters[name].g = gradient
        theirs.weight_decay(weight_decay)
        theirs.set_learning_rate(0.01)
        theirs.update()
        blocked.update(0.01, weight_decay)
    blocked.write_states()
    assert_equal(ours, our_parameters, theirs, their_parameters, dict.fromkeys(SHAPES, 5))


def test_gradients_that_are_still_zero():
    """`zero_grad` writes nothing before the gradient is read or written."""
    adam, parameters = make()
    blocked = BlockedAdam(adam)
    for variable in parameters.values():
        variable.grad.cast(np.float32)[...] = 1
    before = {name: variable.d.astype(np.float32) for name, variable in parameters.items()}
    adam.zero_grad()
    blocked.update(0.01)
    for name, values in before.items():
        np.testing.assert_array_equal(parameters[name].d, values)


def test_counters_that_differ():
    """Those of a training that did not update all parameters."""
    theirs, their_parameters = make()
    ours, our_parameters = make()
    updates = {"blocks": 7, "one": 0, "single": 2, "vector": 100, "map": 2}
    for adam in (theirs, ours):
        states = adam.get_states()
        for name, number in updates.items():
            states[name].t = number
        adam.set_states(states)
    blocked = BlockedAdam(ours)
    for parameters in (their_parameters, our_parameters):
        for number, variable in enumerate(parameters.values()):
            variable.g = np.full(variable.shape, number + 0.5)
    theirs.set_learning_rate(0.01)
    for _ in range(2):
        theirs.update()
        blocked.update(0.01)
    blocked.write_states()
    expected = {name: number + 2 for name, number in updates.items()}
    assert_equal(ours, our_parameters, theirs, their_parameters, expected)


@pytest.mark.parametrize("max_norm", [1e-3, 1e3, 1e9])
def test_clipping(max_norm):
    adam, parameters = make()
    blocked = BlockedAdam(adam)
    rng = np.random.default_rng(1)
    gradients = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    for name, gradient in gradients.items():
        parameters[name].g = gradient
    norm = np.sqrt(sum((gradient.astype(np.float64) ** 2).sum() for gradient in gradients.values()))
    blocked.update(0.01, max_norm=max_norm)
    for name, gradient in gradients.items():
        scaled = gradient.astype(np.float64) * min(1, max_norm / norm)
        np.testing.assert_allclose(adam.get_states()[name].pstate["mean"].d, 0.1 * scaled, rtol=1e-5)
        np.testing.assert_array_equal(parameters[name].g, gradient)


def test_update_average():
    parameters = make()[1]
    layout = Layout(SHAPES)
    views = Views(layout, parameters, "data")
    average = np.random.default_rng(2).standard_normal(layout.size).astype(np.float32)
    expected = {name: array.astype(np.float64) for name, array in layout.named(average).items()}
    for change in (nothing, cast, replace):
        change(parameters)
        before = {name: variable.d.astype(np.float32) for name, variable in parameters.items()}
        update_average(average, layout, views, 0.9)
        for name, values in before.items():
            expected[name] = 0.9 * expected[name] + 0.1 * values
            np.testing.assert_allclose(layout.named(average)[name], expected[name], rtol=0, atol=1e-6)
            np.testing.assert_array_equal(parameters[name].d, values)
