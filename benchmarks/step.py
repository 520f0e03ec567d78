# SPDX-License-Identifier: Apache-2.0
"""How long is a training step, and what do its parts bring: the CPU kernels, the joined heads, the graph built once?

python benchmarks/step.py: ResNet-18 at 512 x 512, one image, on one core of the CPU. The same detector runs with
NNabla's own functions, through BLAS and, where it is installed, through oneDNN; and, with the best of these, with the
first convolutions of its heads apart, and with a graph built anew for every step. All are taken in turn and do the
same arithmetic (the learning rate is 0), so their losses must agree; minima over repeats.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

# Before NumPy is imported.
THREADS = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
os.environ |= {"OPENBLAS_NUM_THREADS": THREADS, "OMP_NUM_THREADS": THREADS}

import machine
import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet import runtime as runtimes
from pointdet.config.schema import Config, Dataset, Input, Model, Train
from pointdet.data.augment import normalisation
from pointdet.data.shapes import draw_picture
from pointdet.detectors.base import Codec, Variables
from pointdet.detectors.ctdet.head import CtDetHead
from pointdet.ops.cpu import onednn
from pointdet.ops.layers import Mode, constant, conv
from pointdet.structures import Annotation, Batch
from pointdet.training.graph import TrainingGraph
from pointdet.training.solver import Solver
from pointdet.training.start import fresh

CLASSES = 80
PARTS = ("build", "forward", "backward", "update")
LONGEST = 6  # functions listed

Seconds = dict[str, float]
Step = Callable[[], tuple[float, Seconds]]  # loss, seconds of its parts


@dataclass(frozen=True)
class SeparateHead(CtDetHead):
    """With a first convolution for each output; over the same parameters it gives the same numbers."""

    def __call__(self, feature: nn.Variable, mode: Mode) -> Variables:
        outputs = {}
        for name, branch in self.branches.items():
            with nn.parameter_scope(f"{branch.scope}_conv1"):
                hidden = F.relu(conv(feature, self.channels, 3, mode, bias_init=constant(0)))
            with nn.parameter_scope(f"{branch.scope}_final"):
                outputs[name] = conv(hidden, branch.channels, 1, mode, bias_init=constant(0))
        return outputs


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="resnet", help="model.arch [resnet]")
    parser.add_argument("--num_layers", type=int, default=18, help="model.num_layers [18]")
    parser.add_argument("--size", type=int, default=512, help="height and width, a multiple of 32 [512]")
    parser.add_argument("--width", type=float, default=1.0, help="channel factor, model.width [1]")
    parser.add_argument("--threads", type=int, default=1, help="threads, and cores to run on [1]")
    parser.add_argument("--repeats", type=int, default=4)
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    config = Config(
        dataset=Dataset(dataset="benchmark", format="coco"),
        model=Model(arch=args.arch, num_layers=args.num_layers, width=args.width),
        input=Input(height=args.size, width=args.size),
        train=Train(batch_size=1),
    )
    print(machine.describe())
    print(
        f"{args.arch}-{args.num_layers}, width {args.width:g}, {args.size} x {args.size}, {CLASSES} classes, 1 image, "
        f"{args.threads} thread(s)"
    )
    report(*measure(config, args.repeats))
    return 0


def measure(config: Config, repeats: int) -> tuple[Seconds, dict[str, Seconds], dict[str, Seconds]]:
    """Of every variant: a forward pass; the parts of a training step; of every CPU kernel: NNabla's functions."""
    kernels = ["nnabla", "blas", *(["onednn"] if onednn.library_file() else [])]
    best = kernels[-1]
    runtime = runtimes.start(cpu_kernels=best)
    model = fresh(config, tuple(map(str, range(CLASSES))), runtime)
    joined = model.detector
    head = SeparateHead(CLASSES, config.model.head_channels, legacy_heatmap_bias=False)
    separate = replace(joined, head=head)  # over the same parameters
    batch = draw_batch(config, joined.codec)
    networks = {
        name: replace(model, runtime=replace(runtime, cpu_kernels=name)).network() for name in kernels
    }
    networks |= {f"{best}, heads apart": replace(model, detector=separate).network()}

    solvers = {
        name: Solver(config.train, config.mixed_precision, joined.parameters(), in_blocks=name != "nnabla")
        for name in kernels
    }
    divisors = joined.loss.count(batch)

    def step_of(build: Callable[[], TrainingGraph], solver: Solver, built_once: bool = True) -> Step:
        graph = build() if built_once else None

        def step() -> tuple[float, Seconds]:
            marks = [time.perf_counter()]
            now = graph or build()
            marks.append(time.perf_counter())
            solver.begin()
            loss = now.forward(batch, divisors)["total"]
            marks.append(time.perf_counter())
            now.backward(1.0, None)
            marks.append(time.perf_counter())
            solver.update(0.0)
            marks.append(time.perf_counter())
            return loss, dict(zip(PARTS, np.diff(marks).tolist(), strict=True))

        return step

    graphs = {name: TrainingGraph(config, joined, replace(runtime, cpu_kernels=name)) for name in kernels}
    steps = {name: step_of(lambda graph=graph: graph, solvers[name]) for name, graph in graphs.items()}
    steps |= {
        f"{best}, heads apart": step_of(lambda: TrainingGraph(config, separate, runtime), solvers[best]),
        f"{best}, graph built every step": step_of(
            lambda: TrainingGraph(config, joined, runtime), solvers[best], built_once=False
        ),
    }
    forward = dict.fromkeys(networks, np.inf)
    training: dict[str, Seconds] = {}
    losses = []
    for turn in range(repeats):
        for name in in_turn(networks, turn):
            start = time.perf_counter()
            networks[name](batch["image"])
            forward[name] = min(forward[name], time.perf_counter() - start)
        for name in in_turn(steps, turn):
            loss, parts = steps[name]()
            losses.append(loss)
            if name not in training or sum(parts.values()) < sum(training[name].values()):
                training[name] = parts
    if not np.allclose(losses, losses[0], rtol=1e-4):
        raise SystemExit(f"the variants are not the same model, their losses are {losses}")
    functions = {name: by_function(graph, solvers[name]) for name, graph in graphs.items()}
    return forward, {name: training[name] for name in steps}, functions


def by_function(graph: TrainingGraph, solver: Solver) -> Seconds:
    """Forward and backward of one step, summed over the functions of each name."""
    seconds: Seconds = defaultdict(float)
    started = [0.0]

    def before(function: nn.function.Function) -> None:
        started[0] = time.perf_counter()

    def after(function: nn.function.Function) -> None:
        seconds[function.info.type_name] += time.perf_counter() - started[0]

    solver.begin()
    hooks = {"function_pre_hook": before, "function_post_hook": after}
    graph.terms["total"].forward(clear_no_need_grad=True, **hooks)
    graph.terms["total"].backward(1.0, clear_buffer=True, **hooks)
    return seconds


def in_turn(names: Iterable[str], turn: int) -> Iterator[str]:
    """All names, another one first each turn: a slow moment, or what the one before left behind, meets all."""
    order = list(names)
    for place in range(len(order)):
        yield order[(place + turn) % len(order)]


def draw_batch(config: Config, codec: Codec) -> Batch:
    """One drawn picture with its targets."""
    picture, shapes = draw_picture(np.random.default_rng(0), config.input.height, config.input.width)
    annotation = Annotation.of([shape.box_image for shape in shapes], [shape.label for shape in shapes])
    targets = {name: np.zeros(shape, np.float32) for name, shape in codec.target_shapes().items()}
    codec.encode(annotation, targets)
    row = {"image": picture, "colour": normalisation(config.input, 3), "weight": np.float32(1), **targets}
    return {name: np.asarray(array)[None] for name, array in row.items()}


def report(forward: Seconds, training: dict[str, Seconds], functions: dict[str, Seconds]) -> None:
    """Times, and how many times faster than NNabla's own functions."""
    print(f"\n{'inference':<28} {'ms':>8}  {'faster':>7}")
    for name, seconds in forward.items():
        print(f"{name:<28} {1000 * seconds:8.1f}  {forward['nnabla'] / seconds:5.2f} x")
    print(f"\n{'training step':<28} {'ms':>8}  {'faster':>7}  " + "  ".join(f"{p:>8}" for p in PARTS))
    whole = {name: sum(parts.values()) for name, parts in training.items()}
    for name, parts in training.items():
        columns = "  ".join(f"{1000 * parts[part]:8.1f}" for part in PARTS)
        print(f"{name:<28} {1000 * whole[name]:8.1f}  {whole['nnabla'] / whole[name]:5.2f} x  {columns}")
    print("\nforward and backward, ms, by function")
    for name, seconds_of in functions.items():
        longest = sorted(seconds_of.items(), key=lambda item: -item[1])[:LONGEST]
        print(f"{name:<8} " + ", ".join(f"{function} {1000 * s:.0f}" for function, s in longest))


if __name__ == "__main__":
    raise SystemExit(main())
