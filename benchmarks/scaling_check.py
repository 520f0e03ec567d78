# SPDX-License-Identifier: Apache-2.0
"""The model of benchmarks/scaling.py against real runs of two ranks on this machine.

python benchmarks/scaling_check.py: two ranks that share memory, then two ranks on two hosts that are joined by
a link of limited bandwidth and with a delay. The hosts are network namespaces; they need root, and are
skipped with the reason without. There are two runs for each link:

train: ResNet-18 on the CPU. The gradients are summed after the backward pass, as in the trainer.
overlap: the rank waits instead of computing, like the host of a GPU, and a second thread sums buckets of the
same gradients. This checks the queue: a bucket waits for its gradients, and for the link.

Each prediction is made with the stated bandwidth and delay of the link, and with measured times: of an
all-reduce of the same size, in overlap of the messages of the run itself. Everything is compared twice: medians
(with the quartiles of the measured images/s), and the fastest step, which other processes on the machine disturb
least. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import machine
import numpy as np
from cluster import launch, namespaces, rank
from cluster.buckets import Gradients, StepTime, fill, queue, step_seconds
from cluster.collectives import ring
from cluster.networks import profile

LINKS = ((100, 0.0), (1000, 0.0), (1000, 1.0), (100, 1.0), (1000, 0.1), (100, 0.1))  # Mbit/s, milliseconds
BACKWARD = 0.5  # seconds of the backward pass in the run "overlap"
LIMITS = (1 << 20, 1 << 22, 1 << 40)  # bytes of a bucket; the last one holds all gradients
TIMEOUT = 400  # seconds for one run of mpirun
STATISTICS: dict[str, Callable[[Any], Any]] = {"median": np.median, "fastest": np.min}

AllReduce = Callable[[float], float]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256, help="input height and width (default: 256)")
    parser.add_argument("--width", type=float, default=0.5, help="channel factor (default: 0.5)")
    parser.add_argument("--batch", type=int, default=4, help="images per rank and step (default: 4)")
    parser.add_argument("--steps", type=int, default=10, help="measured steps (default: 10)")
    parser.add_argument("--backward", type=float, default=BACKWARD, help="seconds in overlap (default: 0.5)")
    parser.add_argument("--links", type=int, default=len(LINKS), help="number of limited links (default: 6)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the namespaces are removed then, too
    task = rank.Task("train", args.size, args.width, args.batch, args.steps, args.backward, LIMITS, ())
    gradients = profile(rank.task_config(task)).gradients
    task = replace(task, gradients=tuple((g.values, g.ready) for g in gradients))
    print(machine.describe())
    print(
        f"ResNet-18, width {args.width:g}, {args.size} x {args.size}, {args.batch} images per rank; gradients "
        f"{4 * sum(g.values for g in gradients) / 1e6:.1f} MB in float32; {args.steps} steps"
    )
    load = os.getloadavg()[0]
    steps = {
        "train, from one process": train_step("one process", independent(task, 1)),
        "train, from two processes": train_step("two processes without MPI", independent(task, 2)),
    }
    print(f"load before the measurement: {load:.2f}\n")
    columns = f"{'stated link':>12}{'error':>8}{'measured':>15}{'error':>8}"
    print(f"{'images/s of two ranks':<30}{'median':>9}{'quartiles':>15}{columns}{'fastest':>12}{columns}")
    compare(task, steps, None)
    reason = namespaces.missing()
    if reason:
        print(f"links of limited bandwidth are skipped: {reason}")
    else:
        for megabits, milliseconds in LINKS[: args.links]:
            with namespaces.two_hosts(megabits, milliseconds) as hosts:
                compare(task, steps, hosts)
    return 0


def train_step(title: str, processes: Sequence[dict[str, list[float]]]) -> dict[str, StepTime]:
    """By statistic: the step without communication, from processes that do not communicate."""
    steps = {}
    for name, statistic in STATISTICS.items():
        parts = {part: float(statistic([p[part] for p in processes])) for part in processes[0]}
        listed = ", ".join(
            f"{part} {1000 * parts[part]:.1f}" for part in ("compute", "copy", "update", "step")
        )
        print(f"{title}, {name}: ms {listed}")
        steps[name] = StepTime(0.0, 0.0, parts["compute"] + parts["copy"], parts["update"], title, True)
    return steps


def compare(
    task: rank.Task, steps: dict[str, dict[str, StepTime]], hosts: namespaces.TwoHosts | None
) -> None:
    """Print measured and predicted images per second of both runs on one link."""
    gradients = [Gradients(*group) for group in task.gradients]
    samples = on_ranks(replace(task, part="reduce"), hosts)
    train = on_ranks(task, hosts)["step"]
    overlap = on_ranks(replace(task, part="overlap"), hosts)
    times = (f"{size / 1024:g} KiB {1000 * np.median(s):.2f} ({1000 * min(s):.2f})" for size, s in samples)
    print(f"{'shared memory' if hosts is None else hosts.describe()}; all-reduce, ms: {', '.join(times)}")

    sizes = [size for size, _ in samples]
    links: dict[str, list[AllReduce | None]] = {}
    for name, statistic in STATISTICS.items():
        seconds = [statistic(s) for _, s in samples]
        stated = None if hosts is None else lambda size: ring(size, 2, hosts.bandwidth, hosts.delay)
        links[name] = [stated, lambda size, seconds=seconds: float(np.interp(size, sizes, seconds))]
    for title, by_statistic in steps.items():
        predicted = {
            name: [
                link
                and predict(replace(step, copy=link(rank.SMALL)), gradients, math.inf, link, overlap=False)
                for link in links[name]
            ]
            for name, step in by_statistic.items()
        }
        row(title, task.batch, train, predicted)
    waits = StepTime(0.0, 0.0, task.backward, 0.0, "waits", True)
    for limit, measured in zip(task.limits, overlap, strict=True):
        filled = fill(gradients, 4, limit)
        messages = np.array(measured["messages"])  # steps x buckets
        chosen = {"median": np.median(messages, axis=0), "fastest": messages[np.argmin(measured["step"])]}
        predicted = {}
        for name, seconds in chosen.items():
            own = iter(seconds)
            buckets = queue(filled, task.backward, lambda size, own=own: float(next(own)), overlap=True)
            stated = links[name][0]
            predicted[name] = [
                stated and predict(waits, gradients, limit, stated, overlap=True),
                step_seconds(waits, buckets),
            ]
        row(f"overlap, {len(filled)} bucket(s)", task.batch, measured["step"], predicted)


def predict(
    step: StepTime, gradients: Sequence[Gradients], limit: float, all_reduce: AllReduce, overlap: bool
) -> float:
    """Seconds of a step of two ranks."""
    return step_seconds(step, queue(fill(gradients, 4, limit), step.backward, all_reduce, overlap))


def row(title: str, images: int, seconds: list[float], predicted: dict[str, list[float | None]]) -> None:
    """Print one line: for each statistic measured images/s, then every prediction and its error."""
    low, high = np.percentile(2 * images / np.array(seconds), (25, 75))
    line = f"  {title:<28}"
    for name, statistic in STATISTICS.items():
        measured = 2 * images / statistic(seconds)
        quartiles = f"{low:.2f}-{high:.2f}"
        line += f"{measured:9.2f}{quartiles:>15}" if name == "median" else f"{measured:12.2f}"
        for value, width in zip(predicted[name], (12, 15), strict=True):
            if value is None:
                line += f"{'-':>{width}}{'-':>8}"
                continue
            rate = 2 * images / value
            error = f"{100 * (rate / measured - 1):+.1f}%"
            line += f"{rate:{width}.2f}{error:>8}"
    print(line, flush=True)


def command(task: rank.Task) -> list[str]:
    return [sys.executable, str(Path(rank.__file__)), json.dumps(asdict(task))]


def independent(task: rank.Task, count: int) -> list[dict[str, list[float]]]:
    """The samples of `count` processes that train at the same time and do not communicate."""
    started = [
        subprocess.Popen(command(task), env=launch.environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("a process ended with an error")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def on_ranks(task: rank.Task, hosts: namespaces.TwoHosts | None) -> Any:
    """Run `task` on two ranks and return the result of rank 0."""
    options = ["--timeout", str(TIMEOUT), "--bind-to", "none", "--oversubscribe", "-n", "2"]
    if hosts is None:
        return launch.last_line([launch.mpirun(), *options, *command(task)], task.part)
    return launch.last_line(hosts.command(*command(task), timeout=TIMEOUT), task.part)


if __name__ == "__main__":
    from pointdet.programs.run import run_program

    run_program(main)
