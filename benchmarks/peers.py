# SPDX-License-Identifier: Apache-2.0
"""The same work by PointDet and by PyTorch on the CPU, in turn: forward pass and training step.

python benchmarks/peers.py --torch PYTHON: PYTHON is the interpreter of an environment with PyTorch and NumPy.
PyTorch runs the graph of NNabla's functions with the same parameters and the same batch (peers_torch.py); the losses
of both must agree. Times are the minimum of all rounds. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = 3.0  # of repeated calls in one round


@dataclass(frozen=True)
class Case:
    """A network with CenterNet's heads and the shape of its batch."""

    name: str
    arch: str
    num_layers: int
    width: float
    head_channels: int
    size: int
    batch: int
    classes: int


CASES = [
    Case("DLAv0-34, width 0.25, 128 x 128, batch 4", "dlav0", 34, 0.25, 32, 128, 4, 4),
    Case("ResNet-18, 512 x 512, batch 1", "resnet", 18, 1.0, 64, 512, 1, 80),
    Case("DLAv0-34, 512 x 512, batch 1", "dlav0", 34, 1.0, 64, 512, 1, 80),
]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", required=True, metavar="PYTHON", help="an interpreter with PyTorch")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument(
        "--kernels", nargs="+", default=["onednn", "blas"], help="runtime.cpu_kernels (default: onednn blas)"
    )
    parser.add_argument("--rounds", type=int, default=2, help="of each program (default: 2)")
    parser.add_argument("--only", default="", help="cases with this text in their names")
    parser.add_argument("--ours", metavar="JSON", help=argparse.SUPPRESS)  # what the script calls itself with
    args = parser.parse_args()
    if args.ours:
        print(json.dumps(ours(**json.loads(args.ours))))
        return 0
    import machine  # it imports nothing that reads the number of threads

    print(machine.describe())
    print(f"{'':<44}{'threads':>8}{'':>10}{'forward, ms':>12}{'ratio':>7}{'step, ms':>10}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if args.only in case.name:
                for threads in args.threads:
                    compare(case, threads, args, Path(folder))
    return 0


def compare(case: Case, threads: int, args: argparse.Namespace, folder: Path) -> None:
    """Print the rows of one case."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    cores = sorted(os.sched_getaffinity(0))[:threads]
    programs = {"PyTorch": [args.torch, str(HERE / "peers_torch.py"), str(folder), str(threads)]}
    for kernels in args.kernels:
        settings = {"case": asdict(case), "kernels": kernels, "folder": str(folder)}
        programs[kernels] = [sys.executable, __file__, "--torch", "", "--ours", json.dumps(settings)]
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: {"forward": 1e9, "step": 1e9})
    losses: dict[str, float] = {}
    for _ in range(args.rounds):
        for name in reversed(programs):  # ours first: it writes the files of the other
            result = subprocess.run(
                programs[name],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
            found = json.loads(result.stdout.splitlines()[-1])
            losses[name] = found.pop("loss")
            seconds[name] = {part: min(value, found[part]) for part, value in seconds[name].items()}
    truth = losses["PyTorch"]
    if any(abs(loss - truth) > 1e-4 * abs(truth) for loss in losses.values()):
        raise SystemExit(f"the losses differ: {losses}")
    for name in programs:
        columns = [case.name if name == "PyTorch" else "", threads if name == "PyTorch" else ""]
        row = f"{columns[0]:<44}{columns[1]:>8}{name:>10}"
        for part, width in (("forward", 12), ("step", 10)):
            mine, theirs = (seconds[n][part] for n in (name, "PyTorch"))
            row += f"{1000 * mine:{width}.1f}{mine / theirs:7.2f}"
        print(row, flush=True)


def ours(case: dict[str, object], kernels: str, folder: str, seconds: float = SECONDS) -> dict[str, float]:
    """Seconds of our forward pass and step, and the loss. Writes the graphs for PyTorch."""
    sys.path.insert(0, str(HERE / "gpu"))
    from dataclasses import replace

    import numpy as np
    from batches import random_batch
    from dump import GraphWriter

    from pointdet import runtime as runtimes
    from pointdet.config.schema import Config, DatasetConfig, InputConfig, ModelConfig, TrainConfig
    from pointdet.model.network import build_graph
    from pointdet.training.graph import TrainingGraph
    from pointdet.training.initial_parameters import fresh
    from pointdet.training.solver import Solver

    c = Case(**case)  # type: ignore[arg-type]
    config = Config(
        dataset=DatasetConfig(dataset="benchmark", format="coco"),
        model=ModelConfig(arch=c.arch, num_layers=c.num_layers, width=c.width, head_channels=c.head_channels),
        input=InputConfig(height=c.size, width=c.size),
        train=TrainConfig(batch_size=c.batch),
    )
    runtime = runtimes.start(cpu_kernels=kernels)
    model = fresh(config, tuple(map(str, range(c.classes))), runtime)
    detector, batch = model.detector, random_batch(model, np.random.default_rng(0))
    parameters = detector.parameters()
    plain = replace(runtime, cpu_kernels="nnabla")
    graph = TrainingGraph(config, detector, plain)
    graph.feed(batch, detector.loss.count(batch))
    GraphWriter(parameters, graph.inputs, batch, graph.terms["total"]).write(Path(folder) / "step")
    inference = build_graph(detector, plain, False, (c.batch, c.size, c.size))
    inputs = {"image": inference.images, "colour": inference.colour}
    GraphWriter(parameters, inputs, batch, inference.sink).write(Path(folder) / "forward")

    network = model.network()
    training = TrainingGraph(config, detector, runtime)
    solver = Solver(config.train, config.mixed_precision, parameters, in_blocks=kernels != "nnabla")
    divisors = detector.loss.count(batch)

    def step() -> None:
        solver.begin()
        training.forward(batch, divisors)
        training.backward(1.0)
        solver.update(0.0)

    step()
    loss = training.values()["total"]
    return {
        "loss": loss,
        "forward": fastest(lambda: network(batch["image"]), seconds),
        "step": fastest(step, seconds),
    }


def fastest(call: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest call, of at least two and of those that begin within `seconds`."""
    call()
    begin, times = time.perf_counter(), []
    while len(times) < 2 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    raise SystemExit(main())
