# SPDX-License-Identifier: Apache-2.0
"""The time of a training step, and the gain by the CPU kernels, the joined head convolution and the static
graph.

python benchmarks/step.py: ResNet-18, 512 x 512, one image, one CPU core. The same detector runs with NNabla's
functions, with BLAS and, if it is installed, with oneDNN. With the fastest of these it also runs with a
separate first convolution per head, and with a new graph in every step. The variants alternate. The learning
rate is 0, so all losses must agree. Times are the minimum of all repeats.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

# NumPy reads these when it is imported.
THREADS = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
os.environ |= {"OPENBLAS_NUM_THREADS": THREADS, "OMP_NUM_THREADS": THREADS}

import machine
import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet import runtime as runtimes
from pointdet.arrays import Batch
from pointdet.config.schema import Config, DatasetConfig, InputConfig, ModelConfig, TrainConfig
from pointdet.data.augment import normalisation
from pointdet.data.shapes import draw_picture
from pointdet.detectors.common.base import Codec, Variables
from pointdet.detectors.ctdet.head import CtDetHead
from pointdet.ops.cpu import onednn_library
from pointdet.ops.layers import constant, conv, to_first
from pointdet.ops.mode import Mode
from pointdet.structures import Annotation
from pointdet.training.graph import TrainingGraph
from pointdet.training.initial_parameters import fresh
from pointdet.training.solver import Solver

CLASSES = 80
PARTS = ("build", "forward", "backward", "update")
LONGEST = 6  # number of functions in the list

Seconds = dict[str, float]
Step = Callable[[], tuple[float, Seconds]]  # loss, seconds of the parts


@dataclass(frozen=True)
class SeparateHead(CtDetHead):
    """Has a separate first convolution per output. With the same parameters it has the same outputs."""

    def __call__(self, feature: nn.Variable, mode: Mode) -> Variables:
        outputs = {}
        for name, branch in self.branches.items():
            with nn.parameter_scope(f"{branch.scope}_conv1"):
                hidden = F.relu(conv(feature, self.channels, 3, mode, bias_init=constant(0)))
            with nn.parameter_scope(f"{branch.scope}_final"):
                output = conv(hidden, branch.channels, 1, mode, bias_init=constant(0))
            outputs[name] = to_first(output, mode)
        return outputs


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="resnet", help="model.arch (default: resnet)")
    parser.add_argument("--num_layers", type=int, default=18, help="model.num_layers (default: 18)")
    parser.add_argument(
        "--size", type=int, default=512, help="input height and width, a multiple of 32 (default: 512)"
    )
    parser.add_argument("--width", type=float, default=1.0, help="channel factor, model.width (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="number of threads and of cores (default: 1)")
    parser.add_argument(
        "--repeats", type=int, default=4, help="repeats, of which the fastest counts (default: 4)"
    )
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    config = Config(
        dataset=DatasetConfig(dataset="benchmark", format="coco"),
        model=ModelConfig(arch=args.arch, num_layers=args.num_layers, width=args.width),
        input=InputConfig(height=args.size, width=args.size),
        train=TrainConfig(batch_size=1),
    )
    print(machine.describe())
    print(
        f"{args.arch}-{args.num_layers}, width {args.width:g}, {args.size} x {args.size}, {CLASSES} classes, 1 image, "
        f"{args.threads} thread(s)"
    )
    report(*measure(config, args.repeats))
    return 0


def measure(config: Config, repeats: int) -> tuple[Seconds, dict[str, Seconds], dict[str, Seconds]]:
    """Seconds of a forward pass and of a training step per variant, and of each function per CPU kernel."""
    kernels = ["nnabla", "blas", *(["onednn"] if onednn_library.library_file() else [])]
    best = kernels[-1]
    runtime = runtimes.start(cpu_kernels=best)
    model = fresh(config, tuple(map(str, range(CLASSES))), runtime)
    joined = model.detector
    head = SeparateHead(CLASSES, config.model.head_channels, legacy_heatmap_bias=False)
    separate = replace(joined, head=head)  # with the same parameters
    batch = make_batch(config, joined.codec)
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
            now.forward(batch, divisors)
            loss = now.values()["total"]
            marks.append(time.perf_counter())
            now.backward(1.0)
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
        for name in rotated(networks, turn):
            start = time.perf_counter()
            networks[name](batch["image"])
            forward[name] = min(forward[name], time.perf_counter() - start)
        for name in rotated(steps, turn):
            loss, parts = steps[name]()
            losses.append(loss)
            if name not in training or sum(parts.values()) < sum(training[name].values()):
                training[name] = parts
    if not np.allclose(losses, losses[0], rtol=1e-4):
        raise SystemExit(f"the losses of the variants differ: {losses}")
    functions = {name: by_function(graph, solvers[name]) for name, graph in graphs.items()}
    return forward, {name: training[name] for name in steps}, functions


def by_function(graph: TrainingGraph, solver: Solver) -> Seconds:
    """Seconds of the forward and the backward pass of one step, summed by function name."""
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


def rotated(names: Iterable[str], turn: int) -> Iterator[str]:
    """All names. Each turn starts with another one, so that the order does not favour a variant."""
    order = list(names)
    for place in range(len(order)):
        yield order[(place + turn) % len(order)]


def make_batch(config: Config, codec: Codec) -> Batch:
    """A batch of one image with its targets."""
    picture, shapes = draw_picture(np.random.default_rng(0), config.input.height, config.input.width)
    annotation = Annotation.of([shape.box_image for shape in shapes], [shape.label for shape in shapes])
    targets = {name: np.zeros(shape, np.float32) for name, shape in codec.target_shapes().items()}
    codec.encode(annotation, targets)
    row = {"image": picture, "colour": normalisation(config.input, 3), "weight": np.float32(1), **targets}
    return {name: np.asarray(array)[None] for name, array in row.items()}


def report(forward: Seconds, training: dict[str, Seconds], functions: dict[str, Seconds]) -> None:
    """Print the times, and the speed-up over NNabla's functions."""
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
