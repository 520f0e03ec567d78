# SPDX-License-Identifier: Apache-2.0
"""The cost of every backbone with CenterNet's heads: parameters, operations, forward pass, training step,
memory.

python benchmarks/backbones.py: 512 x 512, 80 classes, one image, one CPU core, the fastest installed CPU
kernels. A training step is a forward and a backward pass, without the update. Times are the minimum of all
repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

# NumPy reads these when it is imported.
THREADS = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
os.environ |= {"OPENBLAS_NUM_THREADS": THREADS, "OMP_NUM_THREADS": THREADS}

import machine
import numpy as np

from pointdet import runtime as runtimes
from pointdet.arrays import Batch
from pointdet.backbones.catalogue import DEPTHS
from pointdet.config.schema import Config, DatasetConfig, InputConfig, ModelConfig, TrainConfig
from pointdet.detectors.common.base import Detector
from pointdet.model.network import build_graph
from pointdet.ops.arithmetic import multiply_adds
from pointdet.training.graph import TrainingGraph
from pointdet.training.initial_parameters import fresh

CLASSES = 80
COLUMNS = ("parameters, M", "GFLOP", "forward, ms", "step, ms", "peak, MB")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="input height and width (default: 512)")
    parser.add_argument("--batch", type=int, default=1, help="images per batch (default: 1)")
    parser.add_argument("--width", type=float, default=1.0, help="channel factor, model.width (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="number of threads and of cores (default: 1)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="repeats, of which the fastest counts (default: 3)"
    )
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing, train.recompute")
    parser.add_argument(
        "--networks", nargs="*", metavar="ARCH_LAYERS", help="e.g. resnet_18 hrnet_32 (default: all)"
    )
    parser.add_argument("--one", metavar="ARCH_LAYERS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
        print(json.dumps(measure(args)))
        return 0
    print(machine.describe())
    print(
        f"width {args.width:g}, {args.size} x {args.size}, {CLASSES} classes, {args.batch} image(s), "
        f"{args.threads} thread(s)"
    )
    print(f"{'':<16}" + "  ".join(f"{column:>13}" for column in COLUMNS))
    for name in args.networks or [f"{arch}_{depth}" for arch, depths in DEPTHS.items() for depth in depths]:
        row = in_process(name, *sys.argv[1:])
        print(f"{name:<16}" + "  ".join(f"{row[column]:13.1f}" for column in COLUMNS), flush=True)
    return 0


def in_process(name: str, *arguments: object) -> dict[str, float]:
    """The row of one network, measured in a separate process to get its own peak memory."""
    command = [sys.executable, __file__, *map(str, arguments), "--one", name]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return row


def measure(args: argparse.Namespace) -> dict[str, float]:
    """The row of the network `args.one`, measured in this process."""
    arch, _, depth = args.one.rpartition("_")
    config = Config(
        dataset=DatasetConfig(dataset="benchmark", format="coco"),
        model=ModelConfig(arch=arch, num_layers=int(depth), width=args.width),
        input=InputConfig(height=args.size, width=args.size),
        train=TrainConfig(batch_size=args.batch, recompute=args.recompute),
    )
    runtime = runtimes.start()
    model = fresh(config, tuple(map(str, range(CLASSES))), runtime)
    batch = random_batch(config, model.detector)
    graph = TrainingGraph(config, model.detector, runtime)
    divisors = np.ones(len(model.detector.loss.divisors))
    trainable = model.detector.parameters(trainable_only=True)

    def step() -> None:
        for parameter in trainable.values():
            parameter.grad.zero()
        graph.forward(batch, divisors)
        graph.backward(1.0)

    seconds = fastest(step, args.repeats)
    peak = peak_megabytes()
    network = model.network()
    return {
        "parameters, M": sum(v.size for v in trainable.values()) / 1e6,
        "GFLOP": gigaflops(model.detector, args.size),
        "forward, ms": 1000 * fastest(lambda: network(batch["image"]), args.repeats),
        "step, ms": 1000 * seconds,
        "peak, MB": peak,
    }


def gigaflops(detector: Detector, size: int) -> float:
    """Two operations for each multiply-add in the convolutions, for one image."""
    graph = build_graph(detector, runtimes.start(), half=False, shape=(1, size, size), exportable=True)
    return 2 * multiply_adds(graph.outputs.values()) / 1e9


def random_batch(config: Config, detector: Detector) -> Batch:
    """Images of noise without objects. The time does not depend on the objects."""
    count, height, width = config.train.batch_size, config.input.height, config.input.width
    colour = np.eye(3, 4, dtype=np.float32) / 128 - np.eye(1, 4, 3, dtype=np.float32)
    targets = {
        name: np.zeros((count, *shape), np.float32) for name, shape in detector.codec.target_shapes().items()
    }
    return {
        "image": np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8),
        "colour": np.repeat(colour[None], count, axis=0),
        "weight": np.ones(count, np.float32),
        **targets,
    }


def fastest(work: Callable[[], object], repeats: int) -> float:
    """The shortest time of `work` in seconds."""
    best = np.inf
    for _ in range(repeats + 1):  # the first one allocates memory
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return float(best)


def peak_megabytes() -> float:
    """The largest resident size of this process so far."""
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) / 1000 for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    raise SystemExit(main())
