# SPDX-License-Identifier: Apache-2.0
"""The time of several implementations of the corner pool on a CPU, compared with numpy.maximum.accumulate.

python benchmarks/corner_pool.py: one map of 128 x 128 x 128, one core, forward and backward. Times are the
minimum of all repeats, for the slowest of the four directions. The bounds are 2 x (forward) and 4 x
(backward) the time of accumulate.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

# NumPy reads these when it is imported.
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import machine
import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet.ops.mode import Mode
from pointdet.ops.pooling import Direction, corner_pool

FORWARD_BOUND, BACKWARD_BOUND = 2.0, 4.0
DIRECTIONS: tuple[Direction, ...] = ("top", "bottom", "left", "right")
Pool = Callable[[nn.Variable, Direction], nn.Variable]
CHOSEN = "function over NumPy (on a CPU)"


def padded_pool(x: nn.Variable, direction: Direction) -> nn.Variable:
    """Max pooling with windows as long as the map, which is padded with very small numbers on one side."""
    axis = 2 if direction in ("top", "bottom") else 3
    size = x.shape[axis]
    after = direction in ("top", "left")
    width = [0] * 8
    width[2 * axis + (1 if after else 0)] = size - 1
    kernel = tuple(size if a == axis else 1 for a in (2, 3))
    return F.max_pooling(F.pad(x, width, "constant", -3e38), kernel, (1, 1))


POOLS: dict[str, Pool] = {
    "padding, maximum pooling": padded_pool,
    "doubling (graph, exported)": lambda x, direction: corner_pool(x, direction, Mode(training=False)),
    "computed twice (GPU, training)": lambda x, direction: corner_pool(x, direction, Mode(training=True)),
    CHOSEN: lambda x, direction: corner_pool(x, direction, Mode(training=True, kernels="blas")),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128, help="channels, height and width (default: 128)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="repeats, of which the fastest counts (default: 5)"
    )
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    print(machine.describe())
    values = np.random.default_rng(0).standard_normal((1, args.size, args.size, args.size)).astype(np.float32)
    reference = max(accumulate(values, axis, args.repeats) for axis in (2, 3))
    print(
        f"\n{'ms':<32} {'forward':>9} {'backward':>9}\n{'numpy.maximum.accumulate':<32} {1e3 * reference:9.1f}"
    )
    ratios = {}
    for name, build in POOLS.items():
        times = [measure(values, build, direction, args.repeats) for direction in DIRECTIONS]
        forward, backward = (max(part) for part in zip(*times, strict=True))
        ratios[name] = forward / reference, backward / reference
        print(
            f"{name:<32} {1e3 * forward:9.1f} {1e3 * backward:9.1f}"
            f"   {ratios[name][0]:.2f} x, {ratios[name][1]:.2f} x accumulate"
        )
    return 0 if ratios[CHOSEN][0] <= FORWARD_BOUND and ratios[CHOSEN][1] <= BACKWARD_BOUND else 1


def accumulate(values: np.ndarray, axis: int, repeats: int) -> float:
    """Seconds of numpy.maximum.accumulate."""
    out = np.empty_like(values)
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        np.maximum.accumulate(values, axis=axis, out=out)
        best = min(best, time.perf_counter() - start)
    return float(best)


def measure(values: np.ndarray, build: Pool, direction: Direction, repeats: int) -> tuple[float, float]:
    """Seconds of a forward pass and of a backward pass."""
    x = nn.Variable(values.shape, need_grad=True)
    x.d = values
    y = build(x, direction)
    forward = backward = np.inf
    for _ in range(repeats + 1):  # the first one allocates memory
        x.grad.zero()
        marks = [time.perf_counter()]
        y.forward(clear_no_need_grad=True)
        marks.append(time.perf_counter())
        y.backward(1.0, clear_buffer=True)
        marks.append(time.perf_counter())
        forward, backward = min(forward, marks[1] - marks[0]), min(backward, marks[2] - marks[1])
    return float(forward), float(backward)


if __name__ == "__main__":
    raise SystemExit(main())
