# SPDX-License-Identifier: Apache-2.0
"""One rank of benchmarks/scaling_check.py: measures one part and prints the result as JSON.

Usage: rank.py '{"part": "train", ...}', with the keys of `Task`.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import numpy as np

from cluster.buckets import Gradients, fill

SMALL = 16  # bytes; about the size of the divisors of the losses


@dataclass(frozen=True)
class Task:
    """What a rank measures."""

    part: str  # "train", "reduce" or "overlap"
    size: int  # height and width of the input
    width: float  # model.width
    batch: int
    steps: int
    backward: float  # seconds of the backward pass of "overlap"
    limits: tuple[float, ...]  # bytes of a bucket of "overlap"
    gradients: tuple[tuple[int, float], ...]  # values, ready: as in Gradients


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    result = {"train": train, "reduce": reduce, "overlap": overlap}[task.part](task)
    if int(os.environ.get("OMPI_COMM_WORLD_RANK", "0")) == 0:
        print(json.dumps(result), flush=True)


def train(task: Task) -> dict[str, list[float]]:
    """Seconds of every step and of its parts. Without mpirun nothing is summed.

    copy: the gradients into one buffer and back, as in MpiRanks.all_reduce.
    """
    import backbones

    from pointdet import runtime as runtimes
    from pointdet.training.graph import TrainingGraph
    from pointdet.training.initial_parameters import fresh
    from pointdet.training.solver import Solver

    config = task_config(task)
    runtime = runtimes.start()
    ranks = runtime.ranks
    detector = fresh(config, tuple(map(str, range(backbones.CLASSES))), runtime).detector
    graph = TrainingGraph(config, detector, runtime)
    solver = Solver(config.train, config.mixed_precision, detector.parameters(), in_blocks=True)
    batch = backbones.random_batch(config, detector)
    samples: dict[str, list[float]] = {"compute": [], "reduce": [], "update": [], "step": []}
    for _ in range(task.steps + 1):
        marks = [time.perf_counter()]
        divisors = ranks.sum(np.ones(len(detector.loss.divisors)))
        solver.begin()
        graph.forward(batch, divisors)
        graph.backward(1.0, None)
        marks.append(time.perf_counter())
        ranks.all_reduce(solver.gradients)
        marks.append(time.perf_counter())
        solver.update(0.0)
        marks.append(time.perf_counter())
        for name, seconds in zip(samples, [*np.diff(marks), marks[-1] - marks[0]], strict=True):
            samples[name].append(float(seconds))
    samples["copy"] = [copy_seconds(solver.gradients) for _ in range(task.steps + 1)]
    return {name: seconds[1:] for name, seconds in samples.items()}  # the first step allocates memory


def task_config(task: Task) -> Any:
    """ResNet-18 with CenterNet's heads."""
    from pointdet.config.schema import Config, DatasetConfig, InputConfig, ModelConfig, TrainConfig

    return Config(
        dataset=DatasetConfig(dataset="benchmark", format="coco"),
        model=ModelConfig(width=task.width),
        input=InputConfig(height=task.size, width=task.size),
        train=TrainConfig(batch_size=task.batch),
    )


def copy_seconds(gradients: Any) -> float:
    """Seconds to copy the gradients into one buffer and back."""
    buffer = np.empty(sum(gradient.size for gradient in gradients), np.float32)
    buffer[...] = 0  # its memory exists, as in the second step of a training
    parts = np.split(buffer, np.cumsum([gradient.size for gradient in gradients])[:-1])
    start = time.perf_counter()
    for part, gradient in zip(parts, gradients, strict=True):
        part[...] = gradient.data.reshape(-1)
    for part, gradient in zip(parts, gradients, strict=True):
        gradient.cast(np.float32)[...] = part.reshape(gradient.shape)
    return time.perf_counter() - start


def reduce(task: Task) -> list[tuple[int, list[float]]]:
    """Bytes, and the seconds of all-reduces, for several sizes up to that of all gradients."""
    from mpi4py import MPI

    total = 4 * sum(values for values, _ in task.gradients)
    sizes = [SMALL, *(size for size in (1 << 16, 1 << 18, 1 << 20, 1 << 22) if size < total), total]
    samples = []
    for size in sizes:
        buffer = np.zeros(size // 4, np.float32)
        calls = 20 if size <= 1 << 16 else 1
        times = []
        for _ in range(task.steps + 1):
            start = time.perf_counter()
            for _ in range(calls):
                MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, buffer)
            times.append((time.perf_counter() - start) / calls)
        samples.append((size, times[1:]))  # the first call opens connections
    return samples


def overlap(task: Task) -> list[dict[str, list[Any]]]:
    """For each limit of the buckets: seconds of every step, and of the message of every bucket in that step.

    The rank waits for `backward` seconds. Meanwhile a second thread sums every bucket that is full.
    """
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    full: queue.Queue[np.ndarray | None] = queue.Queue()
    messages: list[float] = []

    def send() -> None:
        while (buffer := full.get()) is not None:
            start = time.perf_counter()
            world.Allreduce(MPI.IN_PLACE, buffer)
            messages.append(time.perf_counter() - start)
            full.task_done()

    sender = threading.Thread(target=send)
    sender.start()
    results = []
    for limit in task.limits:
        filled = fill([Gradients(*group) for group in task.gradients], 4, limit)
        buffers = [np.zeros(size // 4, np.float32) for size, _ in filled]
        steps, of_buckets = [], []
        for _ in range(task.steps + 1):
            messages.clear()
            world.Barrier()
            start = time.perf_counter()
            for buffer, (_, share) in zip(buffers, filled, strict=True):
                wait_until(start + share * task.backward)
                full.put(buffer)
            wait_until(start + task.backward)
            full.join()
            steps.append(time.perf_counter() - start)
            of_buckets.append(list(messages))
        results.append({"step": steps[1:], "messages": of_buckets[1:]})
    full.put(None)
    sender.join()
    return results


def wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.perf_counter()))


if __name__ == "__main__":
    main()
