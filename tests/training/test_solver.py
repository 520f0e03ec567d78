# SPDX-License-Identifier: Apache-2.0
"""The solver compared with NumPy: Adam, weight decay, clipping, loss scale, learning rate, saved state."""

import h5py
import nnabla as nn
import numpy as np
import pytest

from pointdet.config.schema import LearningRateConfig, MixedPrecisionConfig, TrainConfig
from pointdet.errors import PointDetError
from pointdet.training.solver import MAX_SKIPS, LossScale, Solver, learning_rate

SHAPES = {"conv/W": (3, 2, 2, 2), "conv/b": (3,), "bn/mean": (1, 3, 1, 1)}
TRAINABLE = ("conv/W", "conv/b")
STEPS = 12


def draw(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture(params=[False, True], ids=["nnabla", "in blocks"])
def in_blocks(request):
    return request.param


def make(train=None, precision=None, in_blocks=False):
    """A solver and the parameters it updates."""
    parameters = {}
    for name, array in draw(0).items():
        parameters[name] = nn.Variable(array.shape, need_grad=name in TRAINABLE)
        parameters[name].d = array
    solver = Solver(
        TrainConfig(**(train or {})), MixedPrecisionConfig(**(precision or {})), parameters, in_blocks
    )
    return solver, parameters


def gradients(step):
    return {name: array * (1 + step % 3) for name, array in draw(1 + step).items() if name in TRAINABLE}


def run_step(solver, parameters, step, lr, scale=1.0):
    solver.begin()
    for name, gradient in gradients(step).items():
        parameters[name].g = gradient * np.float32(scale)
    return solver.update(lr)


def values(parameters):
    return {name: np.array(v.d) for name, v in parameters.items()}


def rates():
    return 0.01 / (1 + np.arange(STEPS))


def numpy_adam(weight_decay=0.0, clip_grad_norm=0.0):
    """The parameters after every step, computed in float64 (Kingma and Ba, 2015, algorithm 1)."""
    theta = {name: draw(0)[name].astype(np.float64) for name in TRAINABLE}
    m = {name: np.zeros(SHAPES[name]) for name in TRAINABLE}
    v = {name: np.zeros(SHAPES[name]) for name in TRAINABLE}
    history = []
    for step, lr in enumerate(rates()):
        g = {name: gradient.astype(np.float64) for name, gradient in gradients(step).items()}
        norm = np.sqrt(sum((gradient**2).sum() for gradient in g.values()))
        if clip_grad_norm and norm > clip_grad_norm:
            g = {name: gradient * clip_grad_norm / norm for name, gradient in g.items()}
        for name in TRAINABLE:
            total = g[name] + weight_decay * theta[name]
            m[name] = 0.9 * m[name] + 0.1 * total
            v[name] = 0.999 * v[name] + 0.001 * total**2
            m_hat, v_hat = m[name] / (1 - 0.9 ** (step + 1)), v[name] / (1 - 0.999 ** (step + 1))
            theta[name] = theta[name] - lr * m_hat / (np.sqrt(v_hat) + 1e-8)
        history.append(dict(theta))
    return history


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 0.1},
        {"clip_grad_norm": 5.0},  # some steps are above and some below
        {"weight_decay": 0.1, "clip_grad_norm": 1.0},
    ],
    ids=str,
)
def test_adam(settings, in_blocks):
    solver, parameters = make(settings, in_blocks=in_blocks)
    statistic = draw(0)["bn/mean"]
    for step, (lr, expected) in enumerate(zip(rates(), numpy_adam(**settings), strict=True)):
        assert run_step(solver, parameters, step, lr)
        for name in TRAINABLE:
            np.testing.assert_allclose(parameters[name].d, expected[name], rtol=0, atol=2e-6)
    np.testing.assert_array_equal(parameters["bn/mean"].d, statistic)


def test_the_references_differ():
    """So a solver without weight decay or without clipping fails `test_adam`."""
    ends = [
        numpy_adam(**settings)[-1]["conv/W"]
        for settings in ({}, {"weight_decay": 0.1}, {"clip_grad_norm": 5.0})
    ]
    assert np.abs(ends[0] - ends[1]).max() > 1e-3
    assert np.abs(ends[0] - ends[2]).max() > 1e-4
    norms = [np.sqrt(sum((g**2).sum() for g in gradients(step).values())) for step in range(STEPS)]
    assert min(norms) < 5 < max(norms)


def test_the_loss_scale_does_not_change_the_updates():
    plain, plain_parameters = make({"weight_decay": 0.1, "clip_grad_norm": 5.0})
    scaled, scaled_parameters = make(
        {"weight_decay": 0.1, "clip_grad_norm": 5.0},
        {"mixed_precision": True, "loss_scaling": 1024.0, "loss_scaling_interval": 4},
    )
    for step, lr in enumerate(rates()):
        run_step(plain, plain_parameters, step, lr)
        run_step(scaled, scaled_parameters, step, lr, scaled.loss_scale.value)
    assert scaled.loss_scale.value == 1024 * 2**3
    for name, array in values(plain_parameters).items():
        np.testing.assert_array_equal(scaled_parameters[name].d, array)  # powers of two are exact


@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
def test_an_overflow_skips_one_step(poison):
    precision = {"mixed_precision": True, "loss_scaling": 1024.0}
    solver, parameters = make({}, precision)
    other, other_parameters = make({}, precision)
    for step in range(3):
        run_step(solver, parameters, step, 0.01, 1024)
        run_step(other, other_parameters, step, 0.01, 1024)
    before = values(parameters)

    solver.begin()
    parameters["bn/mean"].d = np.full(SHAPES["bn/mean"], poison)  # as after a forward pass that overflows
    for name, gradient in gradients(3).items():
        parameters[name].g = gradient
    parameters["conv/b"].g = np.array([1, poison, 1])
    assert not solver.update(0.01)

    assert solver.loss_scale.state() == {
        "value": 512.0,
        "good_steps": 0,
        "skipped_steps": 1,
        "skips_in_a_row": 1,
    }
    for name, array in before.items():
        np.testing.assert_array_equal(parameters[name].d, array)
    # Adam's state is unchanged too: the next step equals that of a run without the overflow.
    assert run_step(solver, parameters, 4, 0.01, 512) and run_step(other, other_parameters, 4, 0.01, 1024)
    for name, array in values(other_parameters).items():
        np.testing.assert_array_equal(parameters[name].d, array)
    assert solver.loss_scale.skips_in_a_row == 0 and solver.loss_scale.skipped_steps == 1


def test_many_overflows_in_a_row_are_an_error():
    solver, parameters = make({}, {"mixed_precision": True, "loss_scaling": 65536.0})
    for _ in range(MAX_SKIPS - 1):
        assert not run_step(solver, parameters, 0, 0.01, np.inf)
    assert solver.loss_scale.value == 1.0  # the lower bound
    with pytest.raises(PointDetError, match="30 steps in a row overflowed, the last at loss scale 1; lower"):
        run_step(solver, parameters, 0, 0.01, np.inf)


def test_loss_scale():
    scale = LossScale(MixedPrecisionConfig(mixed_precision=True, loss_scaling=8.0, loss_scaling_interval=3))
    overflows = [False, False, False, True, False, False, True, True, False, False, False, False]
    expected = [8, 8, 16, 8, 8, 8, 4, 2, 2, 2, 4, 4]
    found = []
    for overflow in overflows:
        scale.update(overflow)
        found.append(scale.value)
    assert found == expected
    assert scale.skipped_steps == 3
    again = LossScale(MixedPrecisionConfig(mixed_precision=True))
    again.restore(scale.state())
    assert again.state() == scale.state() and again.good_steps == 1


def test_loss_scale_has_bounds():
    scale = LossScale(
        MixedPrecisionConfig(mixed_precision=True, loss_scaling=2.0**23, loss_scaling_interval=1)
    )
    for _ in range(5):
        scale.update(False)
    assert scale.value == 2.0**24


def test_constant_loss_scale_and_no_loss_scale():
    constant = LossScale(
        MixedPrecisionConfig(
            mixed_precision=True, loss_scaling=8, use_dynamic_loss_scaling=False, loss_scaling_interval=1
        )
    )
    off = LossScale(MixedPrecisionConfig(loss_scaling=8))
    for overflow in (True, False, False):
        constant.update(overflow)
    assert constant.value == 8 and constant.skipped_steps == 1
    assert off.value == 1


@pytest.mark.parametrize("resumed_in_blocks", [False, True])
def test_saved_and_loaded(tmp_path, in_blocks, resumed_in_blocks):
    whole, whole_parameters = make(in_blocks=in_blocks)
    for step, lr in enumerate(rates()):
        if step == 5:
            whole.save(tmp_path / "solver.h5")
            middle = values(whole_parameters)
        run_step(whole, whole_parameters, step, lr)
    resumed, parameters = make(in_blocks=resumed_in_blocks)
    for name, array in middle.items():
        parameters[name].d = array
    resumed.load(tmp_path / "solver.h5", channel_last=False)
    for step, lr in list(enumerate(rates()))[5:]:
        run_step(resumed, parameters, step, lr)
    for name, array in values(whole_parameters).items():
        np.testing.assert_allclose(
            parameters[name].d, array, rtol=0, atol=0 if in_blocks == resumed_in_blocks else 1e-6
        )


def test_damaged_solver_state_is_an_error(tmp_path):
    solver, parameters = make()
    run_step(solver, parameters, 0, 0.01)
    path = tmp_path / "solver.h5"
    with pytest.raises(PointDetError, match="there is no parameter file .*solver.h5"):
        solver.load(path, channel_last=False)
    solver.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(PointDetError, match="solver.h5 is not a whole .h5 file"):
        solver.load(path, channel_last=False)
    path.write_bytes(whole)
    for change, first in (
        (lambda file: file.move("conv/b", "other/b"), "conv/b"),
        (lambda file: file.__delitem__("conv/W/var"), "conv/W"),
        (lambda file: file.__delitem__("conv/W/t"), "conv/W/t"),
    ):
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(PointDetError, match=rf"solver.h5 .*{first}.*; resume from another checkpoint"):
            solver.load(path, channel_last=False)


@pytest.mark.parametrize("input_channels", [3, 4])
def test_moments_are_converted_to_layout_and_input_channels(tmp_path, input_channels):
    """A training resumed in NHWC, or with a fourth input channel, equals one that used it from the start."""
    rng = np.random.default_rng(0)
    shapes = {"conv1/conv/W": (5, 3, 3, 3), "conv1/bn/beta": (1, 5, 1, 1)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    def converted(array, name):
        if name == "conv1/conv/W" and input_channels == 4:
            array = np.pad(array, ((0, 0), (0, 1), (0, 0), (0, 0)))
        return array.transpose(0, 2, 3, 1)

    def solver_of(change):
        parameters = {}
        for name, array in arrays.items():
            parameters[name] = nn.Variable.from_numpy_array(change(array, name))
            parameters[name].need_grad = True
        return Solver(TrainConfig(), MixedPrecisionConfig(), parameters), parameters

    def step(solver, parameters, seed, change):
        noise = np.random.default_rng(seed)
        solver.begin()
        for name, parameter in parameters.items():
            parameter.g = change(noise.standard_normal(shapes[name]).astype(np.float32), name)
        solver.update(0.01)

    unchanged = lambda array, name: array
    first, first_parameters = solver_of(unchanged)
    whole, whole_parameters = solver_of(converted)
    for seed in range(4):
        step(first, first_parameters, seed, unchanged)
        step(whole, whole_parameters, seed, converted)
    first.save(tmp_path / "solver.h5")
    resumed, parameters = solver_of(converted)
    for name, parameter in parameters.items():
        parameter.d = whole_parameters[name].d
    resumed.load(tmp_path / "solver.h5", channel_last=True)
    step(whole, whole_parameters, 9, converted)
    step(resumed, parameters, 9, converted)
    for name, parameter in parameters.items():
        np.testing.assert_array_equal(parameter.d, whole_parameters[name].d)


def reference_rate(epoch, base, warmup, num_epochs):
    """The published learning rate of an epoch, counted from 0."""
    if epoch < warmup:
        return base * (epoch + 1) / warmup
    return base * 0.5 * (1 + np.cos(np.pi * (epoch - warmup) / (num_epochs - warmup)))


@pytest.mark.parametrize("iterations", [1, 7, 518])
def test_cosine(iterations):
    settings = LearningRateConfig(base_lr=5e-4, warmup_epochs=5)
    for epoch in range(5, 140):
        assert learning_rate(settings, 140, iterations, epoch * iterations) == pytest.approx(
            reference_rate(epoch, 5e-4, 5, 140), rel=1e-9
        )
    rates = [learning_rate(settings, 140, iterations, step) for step in range(140 * iterations)]
    warm = 5 * iterations
    # The last step of each warm-up epoch has the published rate of that epoch.
    for epoch in range(5):
        assert rates[(epoch + 1) * iterations - 1] == pytest.approx(reference_rate(epoch, 5e-4, 5, 140))
    np.testing.assert_allclose(np.diff(rates[:warm]), 5e-4 / warm, rtol=1e-6)
    assert rates[0] == pytest.approx(5e-4 / warm) and max(rates) == pytest.approx(5e-4)
    assert (np.diff(rates[warm:]) < 0).all() and rates[-1] > 0


def test_step():
    settings = LearningRateConfig(
        base_lr=1e-3, scheduler_type="step", warmup_epochs=0, lr_steps=(3, 5), decay_rate=0.1
    )
    rates = [learning_rate(settings, 7, 4, step) for step in range(28)]
    assert rates == pytest.approx([1e-3] * 12 + [1e-4] * 8 + [1e-5] * 8)


def test_step_after_a_warm_up_of_part_of_an_epoch():
    settings = LearningRateConfig(
        base_lr=1e-3, scheduler_type="step", warmup_epochs=0.5, lr_steps=(1,), decay_rate=0.5
    )
    rates = [learning_rate(settings, 2, 5, step) for step in range(10)]
    assert rates == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 1e-3, *[5e-4] * 5])


def test_warm_up_to_the_end():
    settings = LearningRateConfig(base_lr=1.0, warmup_epochs=2)
    assert [learning_rate(settings, 2, 2, step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1])
