# SPDX-License-Identifier: Apache-2.0
"""The gradients of several ranks as the trainer sums them, compared with a sum by MPI in float64.

mpirun -n 2 python benchmarks/gpu/nccl.py: several updates of a small network, each rank with its own
batches. In every step the gradients of each rank are summed twice: by this script, with MPI, and by the
package, with NCCL during the backward pass (with MPI on a CPU). Every rank must have the same gradients, to
the last bit. At the end the running statistics are summed. Two ranks on one card: --share-card. NCCL then uses sockets, which is slow.
"""

from __future__ import annotations

import hashlib
import time

import nnabla as nn
import numpy as np
from batches import random_batch
from comparison import largest_difference
from device import describe, start, synchronise
from models import KINDS, ON_CPU, small_model
from results import Results, argument_parser
from training_step import TrainingStep

from pointdet.arrays import Arrays
from pointdet.programs.run import run_program
from pointdet.runtime import Runtime

FLOAT_LIMIT, HALF_LIMIT = 1e-3, 5e-2  # two backward passes of one card differ too
STATISTICS_LIMIT = 1e-5
FLOOR = 1e-3  # see networks.py
ON_GPU = ("model.width=0.5", "train.batch_size=8", "input.height=128", "input.width=128")
LOSS_SCALE = "mixed_precision.loss_scaling=64"


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--share-card", action="store_true", help="all ranks on the first card")
    parser.add_argument("--steps", type=int, default=6, help="updates (default: 6)")
    args = parser.parse_args()
    runtime = start(args.device, args.share_card)
    first = runtime.ranks.rank == 0
    results = Results("nccl", args.results if first else None)
    if first:
        print(f"{describe(runtime)}\n")
    for kind in ("float NCHW",) if runtime.on_cpu else ("float NCHW", "half NHWC"):
        compare_sums(results, runtime, kind, args.steps)
    return int(runtime.ranks.broadcast(results.finish() if first else None))


def compare_sums(results: Results, runtime: Runtime, kind: str, steps: int) -> None:
    """Run the updates of one kind. Rank 0 prints a line and the faults."""
    ranks = runtime.ranks
    size = ON_CPU if runtime.on_cpu else ON_GPU
    model = small_model("dlav0", runtime, *size, *KINDS[kind], LOSS_SCALE)
    with nn.context_scope(runtime.context()):
        step = TrainingStep(model)
        rng = np.random.default_rng(ranks.rank)
        limit = HALF_LIMIT if kind.startswith("half") else FLOAT_LIMIT
        seconds: dict[str, list[float]] = {"backward": [], "with the sum": []}
        largest = 0.0
        for number in range(1, steps + 1):
            batch = random_batch(model, rng)
            divisors = ranks.sum(model.detector.loss.count(batch))
            found = {}
            for name, backward in (("backward", step.backward), ("with the sum", step.backward_and_sum)):
                step.begin()
                step.forward(batch, divisors)
                synchronise(runtime)
                started = time.perf_counter()
                backward()
                synchronise(runtime)
                seconds[name].append(time.perf_counter() - started)
                found[name] = step.gradients()
            expected = mpi_sum(found["backward"])
            value, worst = largest_difference(found["with the sum"], expected, FLOOR)
            largest = max(largest, value)
            digests = ranks.gather(digest(found["with the sum"]))
            if digests is not None and len(set(digests)) > 1:
                results.fault(f"{kind}, step {number}: the ranks have different gradients")
            if ranks.rank == 0 and not value <= limit:
                results.fault(f"{kind}, step {number}: {value:.1e} in {worst}, limit {limit:.0e}")
            step.update(1e-4)
        expected_statistics = mpi_sum(step.statistics())
        step.sum_statistics()
        value, worst = largest_difference(step.statistics(), expected_statistics)
        if ranks.rank == 0 and not value <= STATISTICS_LIMIT:
            results.fault(f"{kind}: sum of the statistics: {value:.1e} in {worst}")
    if ranks.rank == 0:
        count = sum(array.size for array in expected.values())
        ms = {name: 1000 * float(np.median(times)) for name, times in seconds.items()}
        print(
            f"{kind}: {ranks.size} rank(s), {count} values, largest difference {largest:.1e} in {steps} steps; "
            f"backward {ms['backward']:.1f} ms, with the sum {ms['with the sum']:.1f} ms",
            flush=True,
        )
        results.row(kind=kind, ranks=ranks.size, values=count, difference=largest, milliseconds=ms)


def mpi_sum(gradients: Arrays) -> Arrays:
    """The sum over all ranks, in float64."""
    from mpi4py import MPI

    total = {}
    for name, array in gradients.items():
        total[name] = array.astype(np.float64)
        MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, total[name])
    return total


def digest(arrays: Arrays) -> str:
    """A hash of all values."""
    value = hashlib.sha256()
    for array in arrays.values():
        value.update(array.tobytes())
    return value.hexdigest()


if __name__ == "__main__":
    run_program(main)
