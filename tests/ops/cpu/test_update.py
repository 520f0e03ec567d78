# SPDX-License-Identifier: Apache-2.0
"""Adam and the moving average in blocks against NNabla and NumPy, on arrays of several blocks."""

import nnabla as nn
import nnabla.solvers as S
import numpy as np

from pointdet.ops.cpu.update import BLOCK, BlockedAdam, update_average

SHAPES = {"blocks": (3, BLOCK - 7), "one": (BLOCK,), "single": (1,)}


def make():
    rng = np.random.default_rng(0)
    parameters = {}
    for name, shape in SHAPES.items():
        parameters[name] = nn.Variable(shape, need_grad=True)
        parameters[name].d = rng.standard_normal(shape)
    adam = S.Adam()
    adam.set_parameters(parameters)
    return adam, parameters


def test_adam_equals_nnabla():
    theirs, their_parameters = make()
    ours, our_parameters = make()
    blocked = BlockedAdam(ours)
    rng = np.random.default_rng(1)
    for step in range(5):
        for name, shape in SHAPES.items():
            their_parameters[name].g = our_parameters[name].g = rng.standard_normal(shape) * 10.0 ** -(
                2 * step
            )
        theirs.set_learning_rate(0.01)
        theirs.update()
        blocked.update(0.01)
    blocked.write_states()
    for name, variable in their_parameters.items():
        np.testing.assert_allclose(our_parameters[name].d, variable.d, rtol=0, atol=1e-6)
        expected, found = theirs.get_states()[name], ours.get_states()[name]
        assert found.t == expected.t == 5
        for moment in ("mean", "var"):
            np.testing.assert_allclose(
                found.pstate[moment].d, expected.pstate[moment].d, rtol=1e-5, atol=1e-12
            )


def test_update_average():
    rng = np.random.default_rng(2)
    old, new = rng.standard_normal((2, 3, BLOCK)).astype(np.float32)
    average, parameter = old.copy(), new.copy()
    update_average(average, parameter, 0.9)
    np.testing.assert_allclose(average, 0.9 * old.astype(np.float64) + 0.1 * new, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(parameter, new)
