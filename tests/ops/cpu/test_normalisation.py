# SPDX-License-Identifier: Apache-2.0
"""Fused batch normalisation against float64 and NNabla: values, gradients, statistics, memory."""

import resource
from functools import partial

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest
from layouts import first, last

from pointdet.ops.cpu import normalisation
from pointdet.ops.cpu.onednn_library import library_file

SHAPES = [(2, 8, 33, 47), (1, 96, 64, 64), (4, 24, 4, 4), (3, 2, 200, 160)]


def variables(shape, seed):
    rng = np.random.default_rng(seed)
    channels = (1, shape[1], 1, 1)
    x, shortcut = (np.float32(3 + 2 * rng.standard_normal(shape)) for _ in range(2))
    beta, gamma, mean = (np.float32(rng.standard_normal(channels)) for _ in range(3))
    var = np.float32(rng.uniform(0.5, 2, channels))
    made = [nn.Variable.from_numpy_array(a, need_grad=True) for a in (x, beta, gamma, mean, var, shortcut)]
    made[3].need_grad = made[4].need_grad = False
    for variable in made:
        variable.persistent = True
    return made


LIBRARIES = [
    "blas",
    pytest.param(
        "onednn",
        marks=pytest.mark.skipif(library_file() is None, reason="onednn-cpu-gomp is not installed"),
    ),
]


def ours(x, beta, gamma, mean, var, shortcut, batch_stat, relu, library="blas"):
    y = normalisation.batch_normalization(
        last(x),
        [beta, gamma, mean, var],
        decay=0.9,
        eps=1e-5,
        batch_stat=batch_stat,
        shortcut=None if shortcut is None else last(shortcut),
        relu=relu,
        library=library,
    )
    return first(y)


def theirs(x, beta, gamma, mean, var, shortcut, batch_stat, relu):
    h = F.batch_normalization(
        x, beta, gamma, mean, var, axes=[1], decay_rate=0.9, eps=1e-5, batch_stat=batch_stat
    )
    h = h if shortcut is None else h + shortcut
    return F.relu(h) if relu else h


def outcome(function, shape, with_shortcut, batch_stat, relu):
    """All results of one pass. The loss uses the inputs once more, so that their gradients accumulate."""
    x, beta, gamma, mean, var, shortcut = variables(shape, 0)
    y = function(x, beta, gamma, mean, var, shortcut if with_shortcut else None, batch_stat, relu)
    y.persistent = True
    loss = F.sum(F.sin(y) * y) + F.sum(F.sin(x)) + F.sum(F.cos(shortcut))
    for variable in (x, beta, gamma, shortcut):
        variable.grad.zero()
    loss.forward(clear_no_need_grad=True)
    loss.backward(clear_buffer=True)
    gradients = {"dx": x.g, "dbeta": beta.g, "dgamma": gamma.g, "dshortcut": shortcut.g}
    return {"y": y.d, "mean": mean.d, "var": var.d, **gradients}


def exact(shape, with_shortcut, batch_stat, relu):
    """The same results in float64."""
    x, beta, gamma, mean, var, shortcut = (v.d.astype(np.float64) for v in variables(shape, 0))
    axes, count = (0, 2, 3), x.size / x.shape[1]
    used_mean, used_var = (
        (x.mean(axes, keepdims=True), x.var(axes, keepdims=True)) if batch_stat else (mean, var)
    )
    normal = (x - used_mean) / np.sqrt(used_var + 1e-5)
    h = normal * gamma + beta + (shortcut if with_shortcut else 0)
    y = np.maximum(h, 0) if relu else h
    dh = (np.cos(y) * y + np.sin(y)) * (h > 0 if relu else 1)
    dgamma, dbeta = (dh * normal).sum(axes, keepdims=True), dh.sum(axes, keepdims=True)
    centred = dh - (dbeta + normal * dgamma) / count if batch_stat else dh
    found = {
        "y": y,
        "mean": 0.9 * mean + 0.1 * used_mean if batch_stat else mean,
        "var": 0.9 * var + 0.1 * used_var * count / (count - 1) if batch_stat else var,
        "dx": centred * gamma / np.sqrt(used_var + 1e-5) + np.cos(x),
        "dbeta": dbeta,
        "dgamma": dgamma,
        "dshortcut": -np.sin(shortcut) + (dh if with_shortcut else 0),
    }
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("with_shortcut", [False, True], ids=["", "shortcut"])
@pytest.mark.parametrize("batch_stat", [False, True], ids=["running", "batch"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_values_gradients_and_statistics(shape, relu, with_shortcut, batch_stat, library):
    found = outcome(partial(ours, library=library), shape, with_shortcut, batch_stat, relu)
    nnabla_results = outcome(theirs, shape, with_shortcut, batch_stat, relu)
    for name, value in exact(shape, with_shortcut, batch_stat, relu).items():
        largest = np.abs(value).max()
        assert np.abs(found[name] - value).max() <= 1e-5 * largest, name
        # NNabla adds the values one by one in float32.
        assert np.abs(found[name] - nnabla_results[name]).max() <= 3e-4 * largest, name


def test_running_variance_of_one_value_is_finite():
    x, beta, gamma, mean, var, _ = variables((1, 4, 1, 1), 1)
    y = ours(x, beta, gamma, mean, var, None, batch_stat=True, relu=False)
    y.forward()
    np.testing.assert_allclose(y.d, beta.d, rtol=1e-6)
    assert np.isfinite(var.d).all()


def test_gradients_accumulate_over_backward_passes():
    x, beta, gamma, mean, var, _ = variables((2, 4, 8, 8), 2)
    loss = F.sum(F.sin(ours(x, beta, gamma, mean, var, None, batch_stat=False, relu=True)))
    for variable in (x, beta, gamma):
        variable.grad.zero()
    gradients = []
    for _ in range(2):
        loss.forward()
        loss.backward()
        gradients.append(gamma.g.copy())
    np.testing.assert_allclose(gradients[1], 2 * gradients[0], rtol=1e-6)


def test_memory_does_not_grow():
    x, beta, gamma, mean, var, shortcut = variables((1, 16, 32, 32), 3)
    loss = F.sum(ours(x, beta, gamma, mean, var, shortcut, batch_stat=True, relu=True))
    sizes = []
    for step in range(1000):
        gamma.grad.zero()
        loss.forward(clear_no_need_grad=True)
        loss.backward(clear_buffer=True)
        if step in (200, 999):
            sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert sizes[1] - sizes[0] < 2048  # KiB
