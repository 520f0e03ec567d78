# SPDX-License-Identifier: Apache-2.0
"""Detector -> .nnp, NNabla's own format, and a .json file of its metadata."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import nnabla as nn
import numpy as np
from nnabla.utils.save import save

from pointdet.export.graph import export_graph, in_nchw, metadata, remove_normalisation
from pointdet.files import replacing, write_text
from pointdet.model.exported import NNP_NETWORK
from pointdet.model.metadata import Contents
from pointdet.model.restore import Model
from pointdet.ops.cpu.process_state import building


def write(model: Model, path: Path, batch: int = 1, contents: Contents = "maps") -> None:
    """Save the network for the configured input size and this batch size, and its metadata in a .json file.

    The input is "image", see `model.metadata.Contents`. The outputs have the names that the codec uses;
    heatmaps are probabilities. Both files are written under a temporary name and then renamed.
    Errors: PointDetError if they cannot be written.
    """
    model = in_nchw(model)
    shape = (batch, model.config.input.height, model.config.input.width)
    graph = export_graph(model, shape, with_peaks=contents == "pipeline")
    # `save` stores the parameters of the current scope with their values; other free variables are inputs.
    scope = OrderedDict(model.detector.scope)
    if contents == "network":
        image = remove_normalisation(graph)
    else:
        image, scope["colour"] = graph.images, graph.colour
        graph.colour.d = np.repeat(model.colour[None], batch, axis=0)
    network = {
        "name": NNP_NETWORK,
        "batch_size": batch,
        "outputs": graph.outputs,
        "names": {"image": image},
    }
    executor = {
        "name": NNP_NETWORK,
        "network": NNP_NETWORK,
        "data": ["image"],
        "output": list(graph.outputs),
    }
    # The reshapes and slices of the graph contain the batch size, so it cannot vary.
    with replacing(path) as writing, building, nn.parameter_scope("", scope):
        parameters = nn.get_parameters(grad_only=False)
        description = {"networks": [network], "executors": [executor]}
        save(str(writing), description, variable_batch_size=False, parameters=parameters)
        write_text(path.with_suffix(".json"), json.dumps(metadata(model, contents).fields(), indent=1))
