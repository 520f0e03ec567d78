# SPDX-License-Identifier: Apache-2.0
"""Detector -> .nnp, NNabla's own format, with its card beside it."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import nnabla as nn
import numpy as np
from nnabla.utils.save import save

from pointdet.errors import PointDetError
from pointdet.export.graph import card, cut, export_graph, in_nchw
from pointdet.inference.card import Contents
from pointdet.inference.exported import NNP_NETWORK
from pointdet.inference.restore import Model


def write(model: Model, path: Path, batch: int = 1, contents: Contents = "maps") -> None:
    """Save the network for the configured input size, in batches of this size: input "image", see `card.Contents`.

    Outputs bear the names the codec reads them by; heatmaps are probabilities. The file is written beside its place
    and renamed; `path` with the suffix .json holds the card. Errors: PointDetError when they cannot be written.
    """
    model = in_nchw(model)
    shape = (batch, model.config.input.height, model.config.input.width)
    graph = export_graph(model, shape, with_peaks=contents == "pipeline")
    # What is in the current scope is stored with its values; everything else at the graph's end is an input.
    scope = OrderedDict(model.detector.scope)
    if contents == "network":
        image = cut(graph)
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
    beside = path.with_name(f".{path.stem}.writing.nnp")
    told = json.dumps(card(model, contents).fields(), indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The batch stands in the graph's reshapes and slices, so it stays what it is.
        with nn.parameter_scope("", scope):
            parameters = nn.get_parameters(grad_only=False)
            contents_of_file = {"networks": [network], "executors": [executor]}
            save(str(beside), contents_of_file, variable_batch_size=False, parameters=parameters)
        path.with_suffix(".json").write_text(told, encoding="utf-8")
        beside.rename(path)
    except OSError as error:
        raise PointDetError(f"cannot write {path} ({error.strerror}); choose another place") from None
