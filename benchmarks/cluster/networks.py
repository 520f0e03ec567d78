# SPDX-License-Identifier: Apache-2.0
"""What the model needs to know of a network: its gradients in the order of the backward pass, and its operations."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import nnabla as nn
import numpy as np

from cluster.buckets import Gradients
from pointdet import runtime as runtimes
from pointdet.config.schema import Config, MixedPrecisionConfig
from pointdet.detectors.common.base import Detector
from pointdet.ops.arithmetic import multiply_adds_of
from pointdet.training.graph import TrainingGraph
from pointdet.training.initial_parameters import fresh

CLASSES = 80
CLASSES_PER_IMAGE = 3.5  # average of COCO (Lin et al., 2014, section 5)


@dataclass(frozen=True)
class Profile:
    """The gradients of a network in the order in which backward completes them, and its cost."""

    name: str
    images: int  # per GPU and step
    gradients: tuple[Gradients, ...]
    operations: float  # of a forward pass for one image, two for each multiply-add in convolutions
    input_bytes: float  # images and targets that one step copies to the GPU, on average

    @property
    def values(self) -> int:
        """The number of trainable parameters."""
        return sum(g.values for g in self.gradients)


def profile(config: Config) -> Profile:
    """Run a training step of the network of `config` on the CPU and record its backward pass.

    The step has one image of the smallest valid size and single precision: the order, the number of
    parameters and the shares of the operations are the same for every size. The share of a function in the
    time of the backward pass is its share of the multiply-adds.
    """
    side = config.model.granularity
    small = config.model_copy(
        update={
            "input": config.input.model_copy(update={"height": side, "width": side}),
            "train": config.train.model_copy(update={"batch_size": 1, "recompute": False}),
            "mixed_precision": MixedPrecisionConfig(),
        }
    )
    # NNabla's own functions: one function for each layer, as on a GPU.
    runtime = runtimes.start(cpu_kernels="nnabla")
    classes = tuple(map(str, range(CLASSES)))
    detector = fresh(small, classes, runtime).detector
    steps = _backward(TrainingGraph(small, detector, runtime), detector)
    total = sum(operations for operations, _ in steps)
    done = 0
    ready: dict[str, float] = {}  # a parameter is ready when the last function that uses it is
    for operations, names in steps:
        done += operations
        ready |= dict.fromkeys(names, done / total)
    full = fresh(config, classes, runtime).detector  # has a fourth image channel with mixed precision
    sizes = {name: v.size for name, v in full.parameters(trainable_only=True).items()}
    groups: dict[float, int] = defaultdict(int)
    for name, size in sizes.items():
        groups[ready[name]] += size
    scale = config.input.height * config.input.width / side**2
    # Of the heatmaps only the planes of classes in the image are copied, and "present" not at all.
    targets = sum(
        math.prod(shape) * (CLASSES_PER_IMAGE / CLASSES if name in full.codec.heatmaps else 1)
        for name, shape in full.codec.target_shapes().items()
        if name != "present"
    )
    return Profile(
        name=f"{config.model.arch}_{config.model.num_layers}",
        images=config.train.batch_size,
        gradients=tuple(Gradients(groups[share], share) for share in sorted(groups)),
        operations=2 * total * scale,
        input_bytes=config.train.batch_size * (3 * config.input.height * config.input.width + 4 * targets),
    )


def _backward(graph: TrainingGraph, detector: Detector) -> list[tuple[int, list[str]]]:
    """Multiply-adds and trainable parameters of every function, in the order of the backward pass."""
    names = {v.grad: name for name, v in detector.parameters(trainable_only=True).items()}
    steps: list[tuple[int, list[str]]] = []

    def record(function: nn.function.Function) -> None:
        used = [names[v.grad] for v in function.inputs if v.grad in names]
        steps.append((multiply_adds_of(function), used))

    shapes = {name: v.shape for name, v in graph.inputs.items()}
    shapes |= {name: (1, *shape) for name, shape in detector.codec.target_shapes().items()}
    batch = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    graph.forward(batch, np.ones(len(detector.loss.divisors)))
    graph.terms["total"].backward(clear_buffer=True, function_post_hook=record)
    return steps
