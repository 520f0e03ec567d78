# SPDX-License-Identifier: Apache-2.0
"""SGD with momentum, weight decay of kernels only, and frozen parameters, compared with NumPy."""

import nnabla as nn
import numpy as np
import pytest
import tiny
from runs import run

from pointdet.config.schema import MixedPrecisionConfig, TrainConfig
from pointdet.errors import PointDetError
from pointdet.training.solver import Solver

SHAPES = {
    "conv1/conv/W": (3, 2, 2, 2),
    "conv1/conv/b": (3,),
    "conv1/bn/gamma": (1, 3, 1, 1),
    "conv10/deconv/W": (2, 1, 2, 2),
    "conv1/bn/mean": (1, 3, 1, 1),
}
TRAINABLE = tuple(SHAPES)[:-1]
KERNELS = ("conv1/conv/W", "conv10/deconv/W")
RATES = (0.1, 0.1, 0.01, 0.02)


def draw(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def make(in_blocks=False, **settings):
    parameters = {}
    for name, array in draw(0).items():
        parameters[name] = nn.Variable(array.shape, need_grad=name in TRAINABLE)
        parameters[name].d = array
    return Solver(TrainConfig(**settings), MixedPrecisionConfig(), parameters, in_blocks), parameters


def step(solver, parameters, number):
    solver.begin()
    for name in TRAINABLE:
        parameters[name].g = draw(1 + number)[name]
    assert solver.update(RATES[number])


@pytest.mark.parametrize("in_blocks", [False, True])
@pytest.mark.parametrize("decayed", ["all", "kernels"])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd(in_blocks, decayed, momentum):
    solver, parameters = make(
        in_blocks, solver="sgd", momentum=momentum, weight_decay=0.5, weight_decay_of=decayed
    )
    theta = {name: draw(0)[name].astype(np.float64) for name in TRAINABLE}
    velocity = dict.fromkeys(TRAINABLE, 0.0)
    for number, rate in enumerate(RATES):
        step(solver, parameters, number)
        for name in TRAINABLE:
            decay = 0.5 if decayed == "all" or name in KERNELS else 0
            gradient = draw(1 + number)[name] + decay * theta[name]
            velocity[name] = momentum * velocity[name] + rate * gradient
            theta[name] = theta[name] - velocity[name]
            np.testing.assert_allclose(parameters[name].d, theta[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("in_blocks", [False, True])
def test_adam_decays_kernels_only(in_blocks):
    settings = {"weight_decay": 0.5}
    whole, kernels, none = (
        make(in_blocks, **more)
        for more in (settings, settings | {"weight_decay_of": "kernels"}, {"weight_decay": 0})
    )
    for number in range(3):
        for solver, parameters in (whole, kernels, none):
            step(solver, parameters, number)
    for name in TRAINABLE:
        same, other = (whole, none) if name in KERNELS else (none, whole)
        np.testing.assert_array_equal(kernels[1][name].d, same[1][name].d)
        assert np.abs(kernels[1][name].d - other[1][name].d).max() > 1e-3


@pytest.mark.parametrize("settings", [{}, {"solver": "sgd"}, {"clip_grad_norm": 0.1}, {"weight_decay": 0.5}])
def test_frozen_parameters(settings):
    """`conv1` is not a part of the name `conv10`. The norm of the gradients is that of the trained ones."""
    solver, parameters = make(freeze=["conv1"], **settings)
    other, trained = make(freeze=["conv1/conv", "conv1/bn/gamma"], **settings)
    for number in range(3):
        step(solver, parameters, number)
        step(other, trained, number)
    assert len(solver.gradients) == 1
    for name in SHAPES:
        np.testing.assert_array_equal(parameters[name].d, trained[name].d)
        assert (parameters[name].d == draw(0)[name]).all() == (name != "conv10/deconv/W")


def test_scopes_that_do_not_exist():
    with pytest.raises(
        PointDetError, match="'res1' has no parameter to train; the network has conv1, conv10"
    ):
        make(freeze=["conv1", "res1"])
    with pytest.raises(PointDetError, match="'conv1/bn/mean' has no parameter"):
        make(freeze=["conv1/bn/mean"])
    with pytest.raises(PointDetError, match="leaves no parameter to train"):
        make(freeze=["conv1", "conv10"])


def test_saved_and_loaded(tmp_path):
    whole, expected = make(solver="sgd")
    for number in range(4):
        if number == 2:
            whole.save(tmp_path / "solver.h5")
            middle = {name: np.array(v.d) for name, v in expected.items()}
        step(whole, expected, number)
    resumed, parameters = make(solver="sgd")
    for name, array in middle.items():
        parameters[name].d = array
    resumed.load(tmp_path / "solver.h5", channel_last=False)
    for number in (2, 3):
        step(resumed, parameters, number)
    for name, variable in expected.items():
        np.testing.assert_array_equal(parameters[name].d, variable.d)


def test_the_state_of_another_solver(tmp_path):
    make(solver="sgd")[0].save(tmp_path / "solver.h5")
    with pytest.raises(
        PointDetError, match="state of another solver than train.solver=adam; keep the solver, or"
    ):
        make()[0].load(tmp_path / "solver.h5", channel_last=False)
    for saved, loaded in (({}, {"freeze": ["conv1"]}), ({"freeze": ["conv1"]}, {})):
        make(**saved)[0].save(tmp_path / "solver.h5")
        with pytest.raises(PointDetError, match="this network and train.freeze .* new run .* --checkpoint"):
            make(**loaded)[0].load(tmp_path / "solver.h5", channel_last=False)


def test_a_run_keeps_frozen_scopes(tmp_path, data):
    model = tiny.model(tiny.config(data, "train.freeze=[conv1, res1]", "train.weight_decay=0.1"))
    before = tiny.parameters(model)
    run(tmp_path / "run", model)
    for name, array in tiny.parameters(model).items():
        frozen = name.startswith(("conv1/", "res1/")) and not name.endswith(("/mean", "/var"))
        assert (array == before[name]).all() == frozen, name
