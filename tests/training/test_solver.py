# SPDX-License-Identifier: Apache-2.0
"""Every update against plain NumPy: Adam, decay, clipping, moving average, loss scale, and what is saved."""

import nnabla as nn
import numpy as np
import pytest

from pointdet.config.schema import LearningRate, MixedPrecision, Train
from pointdet.errors import PointDetError
from pointdet.training.solver import MAX_SKIPS, LossScale, Solver, gradient_norm, learning_rate

SHAPES = {"conv/W": (3, 2, 2, 2), "conv/b": (3,), "bn/mean": (1, 3, 1, 1)}
LEARNT = ("conv/W", "conv/b")
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
        parameters[name] = nn.Variable(array.shape, need_grad=name in LEARNT)
        parameters[name].d = array
    solver = Solver(Train(**(train or {})), MixedPrecision(**(precision or {})), parameters, in_blocks)
    return solver, parameters


def gradients(step):
    return {name: array * (1 + step % 3) for name, array in draw(1 + step).items() if name in LEARNT}


def do(solver, parameters, step, lr, scale=1.0):
    solver.begin()
    for name, gradient in gradients(step).items():
        parameters[name].g = gradient * np.float32(scale)
    return solver.update(lr)


def values(parameters):
    return {name: np.array(v.d) for name, v in parameters.items()}


def rates():
    return 0.01 / (1 + np.arange(STEPS))


def numpy_adam(weight_decay=0.0, clip_grad_norm=0.0):
    """The parameters after every step, float64 (Kingma and Ba, 2015, algorithm 1)."""
    theta = {name: draw(0)[name].astype(np.float64) for name in LEARNT}
    m = {name: np.zeros(SHAPES[name]) for name in LEARNT}
    v = {name: np.zeros(SHAPES[name]) for name in LEARNT}
    history = []
    for step, lr in enumerate(rates()):
        g = {name: gradient.astype(np.float64) for name, gradient in gradients(step).items()}
        norm = np.sqrt(sum((gradient**2).sum() for gradient in g.values()))
        if clip_grad_norm and norm > clip_grad_norm:
            g = {name: gradient * clip_grad_norm / norm for name, gradient in g.items()}
        for name in LEARNT:
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
        assert do(solver, parameters, step, lr)
        for name in LEARNT:
            np.testing.assert_allclose(parameters[name].d, expected[name], rtol=0, atol=2e-6)
    np.testing.assert_array_equal(parameters["bn/mean"].d, statistic)


def test_the_references_differ():
    """So that a solver which forgets one of them cannot pass."""
    ends = [
        numpy_adam(**settings)[-1]["conv/W"]
        for settings in ({}, {"weight_decay": 0.1}, {"clip_grad_norm": 5.0})
    ]
    assert np.abs(ends[0] - ends[1]).max() > 1e-3
    assert np.abs(ends[0] - ends[2]).max() > 1e-4
    norms = [np.sqrt(sum((g**2).sum() for g in gradients(step).values())) for step in range(STEPS)]
    assert min(norms) < 5 < max(norms)


def test_gradient_norm():
    arrays = [np.random.default_rng(i).standard_normal((4, 5 + i)).astype(np.float32) for i in range(3)]
    expected = np.sqrt(sum((a.astype(np.float64) ** 2).sum() for a in arrays))
    assert gradient_norm([nn.NdArray.from_numpy_array(a) for a in arrays]) == pytest.approx(
        expected, rel=1e-6
    )


def test_moving_average(in_blocks):
    solver, parameters = make({"ema_decay": 0.9}, in_blocks=in_blocks)
    expected = {name: array.astype(np.float64) for name, array in draw(0).items()}
    for step, lr in enumerate(rates()):
        parameters["bn/mean"].d = draw(50 + step)["bn/mean"]
        do(solver, parameters, step, lr)
        for name, array in values(parameters).items():
            expected[name] = 0.9 * expected[name] + 0.1 * array
    averaged = solver.averaged()
    assert set(averaged) == set(SHAPES)
    for name, array in expected.items():
        np.testing.assert_allclose(averaged[name].data, array, rtol=0, atol=1e-6)
        assert np.abs(array - parameters[name].d).max() > 1e-3


def test_no_moving_average_unless_asked():
    solver, _ = make()
    assert not solver.averaged()


def test_the_loss_scale_leaves_no_trace():
    plain, plain_parameters = make({"weight_decay": 0.1, "clip_grad_norm": 5.0})
    scaled, scaled_parameters = make(
        {"weight_decay": 0.1, "clip_grad_norm": 5.0},
        {"mixed_precision": True, "loss_scaling": 1024.0, "loss_scaling_interval": 4},
    )
    for step, lr in enumerate(rates()):
        do(plain, plain_parameters, step, lr)
        do(scaled, scaled_parameters, step, lr, scaled.loss_scale.value)
    assert scaled.loss_scale.value == 1024 * 2**3
    for name, array in values(plain_parameters).items():
        np.testing.assert_array_equal(scaled_parameters[name].d, array)  # powers of two cost no bit


@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
def test_an_overflow_skips_one_step(poison):
    precision = {"mixed_precision": True, "loss_scaling": 1024.0}
    solver, parameters = make({"ema_decay": 0.9}, precision)
    other, other_parameters = make({"ema_decay": 0.9}, precision)
    for step in range(3):
        do(solver, parameters, step, 0.01, 1024)
        do(other, other_parameters, step, 0.01, 1024)
    before = values(parameters)
    averages = {name: a.data.copy() for name, a in solver.averaged().items()}

    solver.begin()
    parameters["bn/mean"].d = np.full(SHAPES["bn/mean"], poison)  # what such a forward pass does
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
        np.testing.assert_array_equal(solver.averaged()[name].data, averages[name])
    # Adam's state too is what it was: the next step is that of a run without the overflow.
    assert do(solver, parameters, 4, 0.01, 512) and do(other, other_parameters, 4, 0.01, 1024)
    for name, array in values(other_parameters).items():
        np.testing.assert_array_equal(parameters[name].d, array)
    assert solver.loss_scale.skips_in_a_row == 0 and solver.loss_scale.skipped_steps == 1


def test_nothing_but_overflows_is_an_error():
    solver, parameters = make({}, {"mixed_precision": True, "loss_scaling": 65536.0})
    for _ in range(MAX_SKIPS - 1):
        assert not do(solver, parameters, 0, 0.01, np.inf)
    assert solver.loss_scale.value == 1.0  # it does not sink below
    with pytest.raises(PointDetError, match="30 steps in a row overflowed, the last at loss scale 1; lower"):
        do(solver, parameters, 0, 0.01, np.inf)


def test_loss_scale():
    scale = LossScale(MixedPrecision(mixed_precision=True, loss_scaling=8.0, loss_scaling_interval=3))
    told = [False, False, False, True, False, False, True, True, False, False, False, False]
    expected = [8, 8, 16, 8, 8, 8, 4, 2, 2, 2, 4, 4]
    found = []
    for overflow in told:
        scale.update(overflow)
        found.append(scale.value)
    assert found == expected
    assert scale.skipped_steps == 3
    again = LossScale(MixedPrecision(mixed_precision=True))
    again.restore(scale.state())
    assert again.state() == scale.state() and again.good_steps == 1


def test_loss_scale_has_bounds():
    scale = LossScale(MixedPrecision(mixed_precision=True, loss_scaling=2.0**23, loss_scaling_interval=1))
    for _ in range(5):
        scale.update(False)
    assert scale.value == 2.0**24


def test_loss_scale_may_be_constant_or_off():
    constant = LossScale(
        MixedPrecision(
            mixed_precision=True, loss_scaling=8, use_dynamic_loss_scaling=False, loss_scaling_interval=1
        )
    )
    off = LossScale(MixedPrecision(loss_scaling=8))
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
        do(whole, whole_parameters, step, lr)
    resumed, parameters = make(in_blocks=resumed_in_blocks)
    for name, array in middle.items():
        parameters[name].d = array
    resumed.load(tmp_path / "solver.h5")
    for step, lr in list(enumerate(rates()))[5:]:
        do(resumed, parameters, step, lr)
    for name, array in values(whole_parameters).items():
        np.testing.assert_allclose(
            parameters[name].d, array, rtol=0, atol=0 if in_blocks == resumed_in_blocks else 1e-6
        )


def test_a_broken_state_is_said(tmp_path):
    solver, parameters = make()
    do(solver, parameters, 0, 0.01)
    path = tmp_path / "solver.h5"
    with pytest.raises(PointDetError, match="solver.h5 is not a whole solver state"):
        solver.load(path)
    solver.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PointDetError, match="solver.h5 is not a whole solver state"):
        solver.load(path)


def reference_rate(epoch, base, warmup, num_epochs):
    """Per epoch, 0-based, as published."""
    if epoch < warmup:
        return base * (epoch + 1) / warmup
    return base * 0.5 * (1 + np.cos(np.pi * (epoch - warmup) / (num_epochs - warmup)))


@pytest.mark.parametrize("iterations", [1, 7, 518])
def test_cosine(iterations):
    settings = LearningRate(base_lr=5e-4, warmup_epochs=5)
    for epoch in range(5, 140):
        assert learning_rate(settings, 140, iterations, epoch * iterations) == pytest.approx(
            reference_rate(epoch, 5e-4, 5, 140), rel=1e-9
        )
    rates = [learning_rate(settings, 140, iterations, step) for step in range(140 * iterations)]
    warm = 5 * iterations
    # The last step of each warm-up epoch has the rate that is published for the whole of it.
    for epoch in range(5):
        assert rates[(epoch + 1) * iterations - 1] == pytest.approx(reference_rate(epoch, 5e-4, 5, 140))
    np.testing.assert_allclose(np.diff(rates[:warm]), 5e-4 / warm, rtol=1e-6)
    assert rates[0] == pytest.approx(5e-4 / warm) and max(rates) == pytest.approx(5e-4)
    assert (np.diff(rates[warm:]) < 0).all() and rates[-1] > 0


def test_step():
    settings = LearningRate(
        base_lr=1e-3, scheduler_type="step", warmup_epochs=0, lr_steps=(3, 5), decay_rate=0.1
    )
    rates = [learning_rate(settings, 7, 4, step) for step in range(28)]
    assert rates == pytest.approx([1e-3] * 12 + [1e-4] * 8 + [1e-5] * 8)


def test_step_after_a_warm_up_of_part_of_an_epoch():
    settings = LearningRate(
        base_lr=1e-3, scheduler_type="step", warmup_epochs=0.5, lr_steps=(1,), decay_rate=0.5
    )
    rates = [learning_rate(settings, 2, 5, step) for step in range(10)]
    assert rates == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 1e-3, *[5e-4] * 5])


def test_warm_up_to_the_end():
    settings = LearningRate(base_lr=1.0, warmup_epochs=2)
    assert [learning_rate(settings, 2, 2, step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1])
