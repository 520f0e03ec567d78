# SPDX-License-Identifier: Apache-2.0
"""Gradient buckets on the CPU, with a stand-in for NCCL: every gradient is summed once, when it is final."""

import ctypes

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest

from pointdet.errors import PointDetError
from pointdet.ranks.gradient_buckets import GradientBuckets

CPU = nn.Context(["cpu:float"], "CpuCachedArray", "")
SHAPES = {"first": (6, 4), "shared": (4, 4), "last": (4, 2), "not used": (3,)}


class TwoEqualRanks:
    """NCCL between this process and another one with the same gradients: a sum doubles the values."""

    def __init__(self):
        self.calls = []  # the values of each call's buffers before the sum, and "wait"

    def sum(self, buffers):
        views = [np.frombuffer((ctypes.c_float * n).from_address(a), np.float32) for a, n in buffers]
        self.calls.append([view.copy() for view in views])
        for view in views:
            view *= 2

    def wait(self):
        self.calls.append("wait")

    @property
    def sums(self):
        return [call for call in self.calls if call != "wait"]


@pytest.fixture
def network():
    """Parameters and a loss. `shared` is used by two layers: its gradient is final after the earlier layer."""
    rng = np.random.default_rng(0)
    parameters = {}
    for name, shape in SHAPES.items():
        parameters[name] = nn.Variable(shape, need_grad=True)
        parameters[name].d = rng.standard_normal(shape)
    x = nn.Variable.from_numpy_array(rng.standard_normal((5, 6)).astype(np.float32))
    h = F.tanh(F.affine(x, parameters["first"]))
    h = F.tanh(F.affine(h, parameters["shared"]))
    h = F.tanh(F.affine(h, parameters["shared"]))
    return parameters, F.sum(F.affine(h, parameters["last"]))


def backward(loss, parameters, hook):
    for parameter in parameters.values():
        parameter.grad.zero()
    loss.forward(clear_no_need_grad=True)
    loss.backward(clear_buffer=True, function_post_hook=hook)


def values(parameters):
    return {name: parameter.g.copy() for name, parameter in parameters.items()}


def make(network, bucket_bytes, broadcast=lambda order: order):
    parameters, loss = network
    nccl = TwoEqualRanks()
    gradients = [parameter.grad for parameter in parameters.values()]
    return nccl, GradientBuckets(nccl, broadcast, loss, gradients, CPU, bucket_bytes)


@pytest.mark.parametrize("bucket_bytes", [1, 100, 1 << 20])
def test_every_step_sums_every_gradient_once(network, bucket_bytes):
    parameters, loss = network
    backward(loss, parameters, None)
    expected = {name: 2 * gradient for name, gradient in values(parameters).items()}
    _, buckets = make(network, bucket_bytes)
    for _ in range(4):
        backward(loss, parameters, buckets.hook)
        buckets.finish()
        for name, gradient in values(parameters).items():
            np.testing.assert_array_equal(gradient, expected[name], err_msg=name)
    assert np.abs(expected["first"]).min() > 0


def test_from_the_second_step_on_sums_start_during_the_backward_pass(network):
    parameters, loss = network
    nccl, buckets = make(network, 1)
    backward(loss, parameters, buckets.hook)
    assert not nccl.calls  # the first step only records the order
    buckets.finish()
    assert len(nccl.sums) == 4 and nccl.calls[-1] == "wait"
    final = ("last", "shared", "first", "not used")
    sizes = [[np.prod(SHAPES[name])] for name in final]
    assert [[array.size for array in call] for call in nccl.sums] == sizes

    nccl.calls.clear()
    backward(loss, parameters, buckets.hook)
    assert [[array.size for array in call] for call in nccl.sums] == sizes[:3]  # all that a function uses
    for name, (summed,) in zip(final, nccl.sums, strict=False):
        np.testing.assert_array_equal(2 * summed, parameters[name].g.ravel(), err_msg=name)  # it was final
    buckets.finish()
    assert len(nccl.sums) == 4 and nccl.calls[-1] == "wait"


def test_a_pass_without_hook_adds_to_the_next_one(network):
    """Gradient accumulation: only the last pass of an update sums over the ranks."""
    parameters, loss = network
    backward(loss, parameters, None)
    one = values(parameters)
    _, buckets = make(network, 100)
    for _ in range(3):
        backward(loss, parameters, None)
        loss.forward(clear_no_need_grad=True)
        loss.backward(clear_buffer=True, function_post_hook=buckets.hook)
        buckets.finish()
        for name, gradient in values(parameters).items():
            np.testing.assert_allclose(gradient, 2 * 2 * one[name], rtol=1e-6, err_msg=name)


def test_all_ranks_use_the_order_of_rank_0(network):
    parameters, loss = network
    nccl, buckets = make(network, 1, broadcast=lambda order: sorted(order, reverse=True))
    for _ in range(2):
        nccl.calls.clear()
        backward(loss, parameters, buckets.hook)
        buckets.finish()
        assert [call[0].size for call in nccl.sums] == [3, 8, 16, 24]


def test_a_bucket_is_full_at_its_size(network):
    parameters, loss = network
    nccl, buckets = make(network, 4 * (8 + 16))  # last and shared, then first
    backward(loss, parameters, buckets.hook)
    buckets.finish()
    assert [[array.size for array in call] for call in nccl.sums] == [[8, 16], [24], [3]]


def test_a_fault_of_nccl_is_raised_after_the_pass(network):
    parameters, loss = network
    nccl, buckets = make(network, 1)
    backward(loss, parameters, buckets.hook)
    buckets.finish()

    def fail(buffers):
        raise PointDetError("ncclAllReduce failed (unhandled system error)")

    nccl.sum = fail
    backward(loss, parameters, buckets.hook)
    with pytest.raises(PointDetError, match="ncclAllReduce failed"):
        buckets.finish()
