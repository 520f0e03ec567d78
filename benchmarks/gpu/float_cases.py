# SPDX-License-Identifier: Apache-2.0
"""What is float32 in every configuration: colour matrix, loss terms, update of parameters and their average."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import nnabla as nn
import nnabla.functions as F
import numpy as np
from comparison import nchw
from device import functions_on_cpu

from pointdet.arrays import Arrays
from pointdet.config.schema import MixedPrecisionConfig, TrainConfig
from pointdet.ops import losses
from pointdet.ops.colour import colour as apply_colour
from pointdet.ops.mode import Mode
from pointdet.runtime import Runtime
from pointdet.training.moving_average import MovingAverage
from pointdet.training.solver import Solver

FloatCase = Callable[[Runtime], tuple[Arrays, list[str]]]  # arrays by name; functions that run on the CPU


def loss_terms(runtime: Runtime) -> tuple[Arrays, list[str]]:
    """All terms and their gradients, with saturated logits among them."""
    rng = np.random.default_rng(3)
    b, c, h, w, m = 4, 7, 32, 40, 16
    heatmap = np.where(rng.random((b, c, h, w)) < 0.01, 1, rng.random((b, c, h, w)) ** 4)
    values = {
        "logits": 8 * rng.standard_normal((b, c, h, w)),
        "maps": rng.standard_normal((b, 2, h, w)),
        "heatmap": heatmap,
        "index": rng.integers(0, h * w, (b, m)),
        "mask": rng.random((b, m)) < 0.6,
        "target": rng.standard_normal((b, m, 2)),
        "weight": np.ones(b),
        "count": np.array(37),
    }
    with nn.context_scope(runtime.context()):
        v = {name: nn.Variable.from_numpy_array(np.float32(array)) for name, array in values.items()}
        for name in ("logits", "maps"):
            v[name].need_grad = True
            v[name].grad.zero()
        cells = losses.gather_cells(v["maps"], v["index"])
        pull, push = losses.pull_and_push(cells[:, :, 0], cells[:, :, 1], v["mask"])
        terms = {
            "focal": losses.heatmap_focal(v["logits"], v["heatmap"], v["weight"], v["count"]),
            "l1": losses.masked_l1(cells, v["target"], v["mask"], v["count"]),
            "smooth l1": losses.masked_smooth_l1(cells, v["target"], v["mask"], v["count"]),
            "pull": F.sum(pull),
            "push": F.sum(push),
        }
        total = sum(list(terms.values())[1:], terms["focal"])
        for term in terms.values():
            term.persistent = True
        total.forward()
        total.backward()
    found = {name: term.d.copy() for name, term in terms.items()}
    found |= {f"gradient of the {name}": v[name].g.copy() for name in ("logits", "maps")}
    return found, functions_on_cpu(runtime, total)


def colour_matrix(runtime: Runtime) -> tuple[Arrays, list[str]]:
    """The normalisation of uint8 images in both layouts."""
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 256, (3, 16, 24, 3), np.uint8)
    matrix = rng.random((3, 4, 4), np.float32)
    images, colour = nn.Variable(pixels.shape), nn.Variable(matrix.shape)
    with nn.context_scope(runtime.context()):
        first, last = (
            apply_colour(images, colour, Mode(False, channel_last, runtime.has_channel_last))
            for channel_last in (False, True)
        )
    images.data.cast(np.uint8)[...] = pixels
    colour.data.cast(np.float32)[...] = matrix
    nn.forward_all([first, last])
    return {"NCHW": first.d.copy(), "NHWC": nchw(last.d)}, functions_on_cpu(runtime, first, last)


def updates(runtime: Runtime) -> tuple[Arrays, list[str]]:
    """Three updates with weight decay and clipping, one with an infinite gradient, and the moving average."""
    rng = np.random.default_rng(6)
    precision = MixedPrecisionConfig(mixed_precision=True, loss_scaling=1024)
    settings = TrainConfig(weight_decay=1e-3, clip_grad_norm=5)
    shapes = {"kernel": (8, 4, 3, 3), "beta": (1, 8, 1, 1), "bias": (5,)}
    with nn.context_scope(runtime.context()):
        parameters: OrderedDict[str, nn.Variable] = OrderedDict()
        for name, shape in shapes.items():
            values = rng.standard_normal(shape).astype(np.float32)
            parameters[name] = nn.Variable.from_numpy_array(values).apply(need_grad=True)
        solver = Solver(settings, precision, dict(parameters))
        average = MovingAverage(parameters, 0.9, in_blocks=False)
        applied = []
        for step in range(4):
            solver.begin()
            for parameter in parameters.values():
                parameter.g = 1024 * rng.standard_normal(parameter.shape)
            if step == 2:
                parameters["bias"].g[1] = np.inf
            applied.append(solver.update(1e-2))
            if applied[-1]:
                average.update()
        found = {name: v.d.copy() for name, v in parameters.items()}
        with average.applied():
            found |= {f"average of {name}": v.d.copy() for name, v in parameters.items()}
    return {**found, "applied": np.float32(applied)}, []


FLOAT_CASES: dict[str, FloatCase] = {
    "colour of uint8 images": colour_matrix,
    "terms of the losses": loss_terms,
    "updates and moving average": updates,
}
