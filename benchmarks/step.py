# SPDX-License-Identifier: Apache-2.0
"""How long is a training step, and what do its parts bring: BLAS, the joined head convolution, the graph built once?

python benchmarks/step.py: ResNet-18 at 512 x 512, one image, on one core of the CPU. The same detector runs as it
is; with NNabla's own convolutions; with the first convolutions of its heads apart; with a graph built anew for every
step. All are taken in turn and do the same arithmetic (the learning rate is 0), so their losses must agree; minima
over repeats.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported

import machine
import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet import runtime as runtimes
from pointdet.config.schema import Config, Dataset, Input, Model, Train
from pointdet.data.augment import normalisation
from pointdet.data.shapes import draw_picture
from pointdet.detectors.base import Codec, Variables
from pointdet.detectors.ctdet.head import SCOPES
from pointdet.ops.layers import Mode, constant, conv
from pointdet.runtime import Runtime
from pointdet.structures import Annotation, Batch
from pointdet.training.graph import TrainingGraph
from pointdet.training.solver import Solver
from pointdet.training.start import fresh

CLASSES = 80
PARTS = ("build", "forward", "backward", "update")

Step = Callable[[], tuple[float, dict[str, float]]]  # loss, seconds of its parts


@dataclass(frozen=True)
class SeparateHead:
    """CtDetHead with a first convolution for each output; over the same parameters it gives the same numbers."""

    num_classes: int
    channels: int
    heatmaps: tuple[str, ...]
    class_bias: str

    def __call__(self, feature: nn.Variable, mode: Mode) -> Variables:
        outputs = {}
        for name, scope in SCOPES.items():
            with nn.parameter_scope(f"{scope}_conv1"):
                hidden = F.relu(conv(feature, self.channels, 3, mode, bias_init=constant(0)))
            with nn.parameter_scope(f"{scope}_final"):
                channels = self.num_classes if name == "heatmap" else 2
                outputs[name] = conv(hidden, channels, 1, mode, bias_init=constant(0))
        return outputs


@dataclass(frozen=True)
class PlainRuntime(Runtime):
    """The CPU, disguised: graphs are built from NNabla's own functions."""

    @property
    def on_cpu(self) -> bool:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="height and width, a multiple of 32 [512]")
    parser.add_argument("--width", type=float, default=1.0, help="channel factor, model.width [1]")
    parser.add_argument("--repeats", type=int, default=4)
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    config = Config(
        dataset=Dataset(dataset="benchmark", format="coco"),
        model=Model(width=args.width),
        input=Input(height=args.size, width=args.size),
        train=Train(batch_size=1),
    )
    print(machine.describe())
    print(f"ResNet-18, width {args.width:g}, {args.size} x {args.size}, {CLASSES} classes, 1 image, 1 core")
    report(*measure(config, args.repeats))
    return 0


def measure(config: Config, repeats: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Seconds of a forward pass, and of the parts of a training step, of every variant."""
    runtime = runtimes.start()
    plain = PlainRuntime(runtime.device, runtime.device_id, runtime.ranks)
    model = fresh(config, tuple(map(str, range(CLASSES))), runtime)
    joined = model.detector
    head = SeparateHead(CLASSES, config.model.head_channels, joined.head.heatmaps, joined.head.class_bias)
    separate = replace(joined, head=head)  # over the same parameters
    batch = draw_batch(config, joined.codec)
    networks = {
        "as it is": model.network(),
        "NNabla's convolutions": replace(model, runtime=plain).network(),
        "heads apart": replace(model, detector=separate).network(),
    }

    solver = Solver(config.train, config.mixed_precision, joined.parameters())
    divisors = joined.loss.count(batch)

    def step_of(build: Callable[[], TrainingGraph], built_once: bool = True) -> Step:
        graph = build() if built_once else None

        def step() -> tuple[float, dict[str, float]]:
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

    steps = {
        "as it is": step_of(lambda: TrainingGraph(config, joined, runtime)),
        "NNabla's convolutions": step_of(lambda: TrainingGraph(config, joined, plain)),
        "heads apart": step_of(lambda: TrainingGraph(config, separate, runtime)),
        "graph built every step": step_of(lambda: TrainingGraph(config, joined, runtime), built_once=False),
    }
    forward = dict.fromkeys(networks, np.inf)
    training: dict[str, dict[str, float]] = {}
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
    return forward, {name: training[name] for name in steps}


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


def report(forward: dict[str, float], training: dict[str, dict[str, float]]) -> None:
    print(f"\n{'inference':<24} {'ms':>8}")
    for name, seconds in forward.items():
        print(f"{name:<24} {1000 * seconds:8.1f}  {seconds / forward['as it is']:5.2f} x")
    print(f"\n{'training step':<24} {'ms':>8}  {'':>7}  " + "  ".join(f"{p:>8}" for p in PARTS))
    whole = {name: sum(parts.values()) for name, parts in training.items()}
    for name, parts in training.items():
        columns = "  ".join(f"{1000 * parts[part]:8.1f}" for part in PARTS)
        print(f"{name:<24} {1000 * whole[name]:8.1f}  {whole[name] / whole['as it is']:5.2f} x  {columns}")


if __name__ == "__main__":
    raise SystemExit(main())
