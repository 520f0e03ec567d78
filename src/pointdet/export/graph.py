# SPDX-License-Identifier: Apache-2.0
"""The graph for export: NNabla's own functions in NCHW, with or without normalisation and peaks."""

from __future__ import annotations

from dataclasses import replace

import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet.config.load import override
from pointdet.errors import PointDetError
from pointdet.model.metadata import Contents, Metadata
from pointdet.model.network import Graph, build_graph
from pointdet.model.restore import Model, assemble


def in_nchw(model: Model) -> Model:
    """The same detector in NCHW, the layout that all devices and runtimes support.

    Errors: PointDetError for a model that was loaded from an exported file.
    """
    if model.engine is not None:
        raise PointDetError(
            "an exported network cannot be exported again; use the checkpoint it was exported from"
        )
    if not model.detector.channel_last:
        return model
    config = override(model.config, ["mixed_precision.channel_last=false"])
    arrays = {name: np.array(v.d, np.float32) for name, v in model.detector.parameters().items()}
    converted = assemble(config, model.class_names, model.runtime, arrays, "the NHWC detector")
    return replace(converted, config=config)


def metadata(model: Model, contents: Contents, precision: str = "float") -> Metadata:
    """The metadata of the exported file."""
    heatmaps = model.detector.head.heatmaps
    return Metadata(model.config, model.class_names, heatmaps, model.colour, contents, precision)


def export_graph(model: Model, shape: tuple[int, int, int], with_peaks: bool) -> Graph:
    """The inference graph of an NCHW model.

    Args:
        shape: batch size, height and width of the input.
        with_peaks: set the heatmaps to 0 except at their peaks.
    """
    graph = build_graph(model.detector, model.runtime, half=False, shape=shape, exportable=True)
    if with_peaks:
        for name in model.detector.head.heatmaps:
            graph.outputs[name] = peaks(graph.outputs[name], model.config.detector.nms_kernel)
    return graph


def peaks(heatmap: nn.Variable, window: int) -> nn.Variable:
    """The heatmap at cells that none in the window of `window` x `window` cells around them exceeds; 0 elsewhere."""
    if window == 1:
        return heatmap
    highest = F.max_pooling(heatmap, (window, window), (1, 1), pad=(window // 2, window // 2))
    return heatmap * F.equal(heatmap, highest)


def remove_normalisation(graph: Graph) -> nn.Variable:
    """Replace the normalisation by a new input, the normalised image (B, C, H, W), which is returned."""
    functions: list[nn.function.Function] = []
    F.sink(*graph.outputs.values()).visit(functions.append)
    # The normalisation ends with the only reshape to four dimensions: it multiplies a list of pixels.
    normalised = next(
        f.outputs[0] for f in functions if f.info.type_name == "Reshape" and f.outputs[0].ndim == 4
    )
    image = nn.Variable(normalised.shape)
    normalised.rewire_on(F.identity(image))
    return image
