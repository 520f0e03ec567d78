# SPDX-License-Identifier: Apache-2.0
"""Detector -> .nnp, NNabla's own format, and a .json file of its metadata."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import nnabla as nn
import numpy as np
from nnabla.utils.save import save

from pointdet.export.existing import refuse_foreign
from pointdet.export.graph import export_graph, in_nchw, metadata, remove_normalisation
from pointdet.files import replacing, write_text
from pointdet.model.exported import NNP_NETWORK, NnpNetwork
from pointdet.model.metadata import Contents
from pointdet.model.restore import Model
from pointdet.ops.cpu.process_state import building


def write(
    model: Model,
    path: Path,
    batch: int = 1,
    contents: Contents = "maps",
    verify: Callable[[NnpNetwork], None] | None = None,
) -> None:
    """Save the network for the configured input size and this batch size, and its metadata in a .json file.

    The input is "image", see `model.metadata.Contents`. The outputs have the names that the codec uses;
    heatmaps are probabilities. Both files are written under a temporary name and then renamed, the metadata last, so
    that an interrupted export leaves a network without metadata, which no program accepts.

    verify: is given the network, loaded again from its file, before it gets its name; nothing is written if it raises
    an error. Errors: PointDetError if the files cannot be written, or would replace files of other programs.
    """
    refuse_foreign(path)
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
    described, json_path = metadata(model, contents), path.with_suffix(".json")
    with replacing(path) as writing:
        with building, nn.parameter_scope("", scope):
            parameters = nn.get_parameters(grad_only=False)
            description = {"networks": [network], "executors": [executor]}
            save(str(writing), description, variable_batch_size=False, parameters=parameters)
        if verify is not None:
            verify(NnpNetwork(writing, described))
        json_path.unlink(missing_ok=True)  # of an earlier network
    write_text(json_path, json.dumps(described.fields(), indent=1))
