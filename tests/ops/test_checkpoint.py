# SPDX-License-Identifier: Apache-2.0
"""Gradient checkpointing of a part of a graph: the memory that it saves, and its gradients."""

import subprocess
import sys

import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet.ops.checkpoint import checkpoint

# Peak memory, in MB above that before the first step, of a step with the four corner pools of a CornerNet head.
MEASURE = """
import sys
import nnabla as nn
import nnabla.functions as F
import numpy as np
from pointdet.ops.mode import Mode
from pointdet.ops.pooling import corner_pool

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1000 for line in status if line.startswith("VmHWM"))

shape = (1, 64, 128, 128)
x = nn.Variable(shape, need_grad=True)
x.d = np.random.default_rng(0).standard_normal(shape)
x.grad.zero()
mode = Mode(training=sys.argv[1] == "training")
pools = [corner_pool(F.relu(x), direction, mode) for direction in ("top", "left", "bottom", "right")]
loss = F.sum(sum(pools[1:], pools[0]))
before = peak()
loss.forward(clear_no_need_grad=True)
after_forward = peak()
loss.backward(1.0, clear_buffer=True)
print(after_forward - before, peak() - before)
"""
MAP = 4 * 64 * 128 * 128 / 1e6  # MB


def measured(mode):
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, mode], check=True, capture_output=True, text=True, timeout=120
    )
    return [float(number) / MAP for number in result.stdout.split()[-2:]]


def test_corner_pools_keep_only_their_inputs():
    """Every pool has 14 inner maps. The graph keeps those of all four pools, training those of one at a time."""
    forward, step = measured("graph")
    assert forward > 4 * 13 and step > 4 * 14
    forward, step = measured("training")
    assert forward < 15 and step < 28


def test_value_and_gradient():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 3, 5)).astype(np.float32) for _ in range(2)]

    def build(x):
        return F.sin(F.sin(x) * F.exp(x))

    for before in (None, rng.standard_normal((2, 3, 5)).astype(np.float32)):
        found = []
        for make in (build, lambda x: checkpoint(build, x)):
            x = nn.Variable.from_numpy_array(arrays[0])
            x.need_grad = True
            if before is None:
                x.grad.zero()
            else:
                x.g = before
            y = make(x)
            y.forward()
            y.backward(arrays[1])
            found.append((y.d.copy(), x.g.copy()))
        for plain, computed_again in zip(*found, strict=True):
            np.testing.assert_array_equal(computed_again, plain)


def test_input_without_gradient():
    x = nn.Variable.from_numpy_array(np.ones((2, 2), np.float32))
    y = checkpoint(F.exp, x)
    y.forward(clear_buffer=True)
    np.testing.assert_allclose(y.d, np.e, rtol=1e-6)
