# SPDX-License-Identifier: Apache-2.0
"""The speed-up of the training with two ranks on two cores.

python benchmarks/ranks.py: starts itself with mpirun -n 1 and -n 2, alternately. A step is the same as in the
trainer: next batch of the loader, forward, backward, all-reduce, update. Every rank has the same number of
images per step, and its own loader processes on the same cores. The best repeat counts. The bound is 1.8 x
the images per second of one rank.

The loader's worker processes import this file too, and must not import NNabla. So modules that need NNabla
are imported inside functions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import machine
import numpy as np
from cluster import launch

from pointdet.config.schema import Config, DatasetConfig, InputConfig, ModelConfig, SplitConfig, TrainConfig
from pointdet.data.augment import Augmenter
from pointdet.data.catalogue import read_dataset
from pointdet.data.loader import Loader
from pointdet.data.shapes import draw_shapes

BOUND = 1.8
RANKS = (1, 2)
PARTS = ("data", "compute", "wait", "reduce", "update")
TITLES = ("waiting for data", "forward, backward", "waiting for others", "all-reduce", "update")
TIMEOUT = 150  # seconds for one run of mpirun

Figures = dict[str, float]  # images_per_second, and the seconds per step of every part


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", type=int, default=256, help="input height and width, a multiple of 32 (default: 256)"
    )
    parser.add_argument("--width", type=float, default=1.0, help="channel factor, model.width (default: 1)")
    parser.add_argument("--kernels", default="auto", help="runtime.cpu_kernels (default: auto)")
    parser.add_argument("--batch", type=int, default=4, help="images per rank and step (default: 4)")
    parser.add_argument("--workers", type=int, default=1, help="loader processes per rank (default: 1)")
    parser.add_argument(
        "--steps",
        type=int,
        default=5,
        help="measured steps, after one step that is not measured (default: 5)",
    )
    parser.add_argument(
        "--repeats", type=int, default=2, help="repeats, of which the fastest counts (default: 2)"
    )
    parser.add_argument(
        "--binding", default="none", help="binding of the ranks by mpirun: none or core (default: none)"
    )
    parser.add_argument(
        "--rank-of", type=Path, metavar="DATA", help=argparse.SUPPRESS
    )  # used by the ranks that mpirun starts
    args = parser.parse_args()
    config = Config(
        dataset=DatasetConfig(
            dataset="shapes",
            format="coco",
            train=SplitConfig(annotations=("annotations/instances_train.json",), images="train"),
        ),
        model=ModelConfig(width=args.width),
        input=InputConfig(height=args.size, width=args.size),
        train=TrainConfig(batch_size=args.batch, workers=args.workers),
    )
    if args.rank_of is not None:
        train(config, args.rank_of, args.steps, args.kernels)
        return 0

    print(machine.describe())
    print(
        f"ResNet-18, width {args.width:g}, {args.size} x {args.size}; per rank {args.batch} images a step",
        end="",
    )
    print(f" and {args.workers} loader process(es)\n")
    best: dict[int, Figures] = {}
    with tempfile.TemporaryDirectory() as folder:
        draw_shapes(folder, max(RANKS) * args.batch * (args.steps + 1), 0, args.size, args.size)
        for _ in range(args.repeats):
            for ranks in RANKS:
                figures = start(ranks, folder, args.binding)
                if ranks not in best or figures["images_per_second"] > best[ranks]["images_per_second"]:
                    best[ranks] = figures
    return report(best)


def start(ranks: int, folder: str, binding: str) -> Figures:
    """Run this file with mpirun and return its figures."""
    # By default ranks are not bound, so that the loader process of a single rank can use the second core.
    command = [launch.mpirun(), "--timeout", str(TIMEOUT), "--bind-to", binding, "--oversubscribe"]
    command += ["-n", str(ranks), sys.executable, __file__, *sys.argv[1:], "--rank-of", folder]
    return dict(launch.last_line(command, f"mpirun -n {ranks}"))


def train(config: Config, folder: Path, steps: int, kernels: str) -> None:
    """Train on one rank. Rank 0 prints the figures as JSON."""
    from pointdet import runtime as runtimes
    from pointdet.training.graph import TrainingGraph
    from pointdet.training.initial_parameters import fresh
    from pointdet.training.solver import Solver

    runtime = runtimes.start(cpu_kernels=kernels)
    ranks = runtime.ranks
    dataset = read_dataset(config.dataset.model_copy(update={"data_dir": str(folder)}), "train")
    model = fresh(config, dataset.class_names, runtime)
    graph = TrainingGraph(config, model.detector, runtime)
    parameters = model.detector.parameters()
    solver = Solver(
        config.train, config.mixed_precision, parameters, in_blocks=runtime.cpu_kernels != "nnabla"
    )
    loader = Loader(
        dataset,
        Augmenter(config.augment, config.input),
        model.detector.codec,
        config.train.batch_size,
        config.train.seed,
        config.train.workers,
        ranks.rank,
        ranks.size,
    )
    seconds = np.zeros(len(PARTS))
    with loader:
        batches = loader.epoch(0)
        for step in range(steps + 1):
            if step == 1:  # the first step allocates memory and waits for the loader to start
                ranks.sum(np.zeros(1))
                seconds[:], since = 0, time.perf_counter()
            marks = [time.perf_counter()]
            batch = next(batches)
            marks.append(time.perf_counter())
            divisors = ranks.sum(model.detector.loss.count(batch))
            solver.begin()
            graph.forward(batch, divisors)
            graph.backward(1.0)
            marks.append(time.perf_counter())
            ranks.sum(np.zeros(1))  # a barrier, not in the trainer: separates waiting from reducing
            marks.append(time.perf_counter())
            ranks.all_reduce(solver.gradients)
            marks.append(time.perf_counter())
            solver.update(1e-4)
            marks.append(time.perf_counter())
            seconds += np.diff(marks)
        ranks.sum(np.zeros(1))
        whole = time.perf_counter() - since
    shares = ranks.sum(seconds) / ranks.size / steps
    if ranks.rank == 0:
        images = steps * config.train.batch_size * ranks.size
        figures = {"images_per_second": images / whole, **dict(zip(PARTS, shares.tolist(), strict=True))}
        print(json.dumps(figures))


def report(best: dict[int, Figures]) -> int:
    """Print the figures and return the exit status."""
    print(f"{'milliseconds a step':<20}" + "".join(f"{r:>9} rank{'s' * (r > 1):<1}" for r in RANKS))
    for part, title in zip(PARTS, TITLES, strict=True):
        print(f"{title:<20}" + "".join(f"{1000 * best[r][part]:15.1f}" for r in RANKS))
    print(f"{'images/s':<20}" + "".join(f"{best[r]['images_per_second']:15.2f}" for r in RANKS))
    two = best[2]
    share = two["reduce"] / sum(two[part] for part in PARTS)
    ratio = two["images_per_second"] / best[1]["images_per_second"]
    print(f"\nall-reduce: {100 * share:.1f} % of two ranks' time")
    print(f"2 ranks / 1 rank = {ratio:.2f} (bound {BOUND})")
    return 0 if ratio >= BOUND else 1


if __name__ == "__main__":
    from pointdet.programs.run import run_program

    run_program(main)
