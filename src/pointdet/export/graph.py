# SPDX-License-Identifier: Apache-2.0
"""The graph that leaves the house: NNabla's own functions in NCHW, with or without normalisation and peaks."""

from __future__ import annotations

from dataclasses import replace

import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet.config.load import override
from pointdet.errors import PointDetError
from pointdet.inference.card import Card, Contents
from pointdet.inference.network import Graph, build_graph
from pointdet.inference.restore import Model, assemble


def in_nchw(model: Model) -> Model:
    """The same detector in NCHW, which every device and every other runtime takes.

    Errors: PointDetError for a model that has no graph because it comes from an exported file.
    """
    if model.engine is not None:
        raise PointDetError(
            "an exported network cannot be exported again; take the checkpoint it was made from"
        )
    if not model.detector.channel_last:
        return model
    config = override(model.config, ["mixed_precision.channel_last=false"])
    arrays = {name: np.array(v.d, np.float32) for name, v in model.detector.parameters().items()}
    twin = assemble(config, model.class_names, model.runtime, arrays, "the NHWC detector")
    return replace(twin, config=config)


def card(model: Model, contents: Contents, precision: str = "float") -> Card:
    """What the exported file says of itself."""
    heatmaps = model.detector.head.heatmaps
    return Card(model.config, model.class_names, heatmaps, model.colour, contents, precision)


def export_graph(model: Model, shape: tuple[int, int, int], with_peaks: bool) -> Graph:
    """The inference graph of an NCHW model for (batch, height, width); `with_peaks`: of heatmaps they alone are left."""
    graph = build_graph(model.detector, model.runtime, half=False, shape=shape, exportable=True)
    if with_peaks:
        for name in model.detector.head.heatmaps:
            graph.outputs[name] = peaks(graph.outputs[name])
    return graph


def peaks(heatmap: nn.Variable) -> nn.Variable:
    """The cells that no neighbour exceeds; 0 elsewhere."""
    highest = F.max_pooling(heatmap, (3, 3), (1, 1), pad=(1, 1))
    return heatmap * F.equal(heatmap, highest)


def cut(graph: Graph) -> nn.Variable:
    """Make the graph begin at the normalised image (B, C, H, W), its new input."""
    functions: list[nn.function.Function] = []
    F.sink(*graph.outputs.values()).visit(functions.append)
    # The colour matrix multiplies a list of pixels, the only thing that is given the shape of an image afterwards.
    normalised = next(
        f.outputs[0] for f in functions if f.info.type_name == "Reshape" and f.outputs[0].ndim == 4
    )
    image = nn.Variable(normalised.shape)
    normalised.rewire_on(F.identity(image))
    return image
