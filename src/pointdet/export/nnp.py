# SPDX-License-Identifier: Apache-2.0
"""Detector -> .nnp: the inference network with its normalisation, uint8 image in, maps out; and the way back."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import nnabla as nn
import nnabla.functions as F
import numpy as np
import numpy.typing as npt
from nnabla.utils.nnp_graph import NnpLoader
from nnabla.utils.save import save

from pointdet.errors import PointDetError
from pointdet.inference.network import build_graph
from pointdet.inference.restore import Model
from pointdet.structures import Maps

NETWORK = "runtime"


def write(model: Model, path: Path, height: int, width: int, batch: int = 1) -> None:
    """Save the network for BGR images (batch, height, width, 3) of values 0 to 255, input "image".

    Outputs bear the names the codec reads them by; heatmaps are probabilities. The normalisation is part of the
    graph. The file is written beside its place and renamed. Errors: PointDetError when it cannot be written.
    """
    colour = model.network().colour
    graph = build_graph(
        model.detector, model.runtime, half=False, shape=(batch, height, width), exportable=True
    )
    graph.colour.d = np.repeat(colour[None], batch, axis=0)
    # What is in the current scope is stored with its values; everything else at the graph's end is an input.
    scope = OrderedDict(model.detector.scope, colour=graph.colour)
    contents = {
        "networks": [
            {"name": NETWORK, "batch_size": batch, "outputs": graph.outputs, "names": {"image": graph.images}}
        ],
        "executors": [
            {"name": NETWORK, "network": NETWORK, "data": ["image"], "output": list(graph.outputs)}
        ],
    }
    beside = path.with_name(f".{path.stem}.writing.nnp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The batch stands in the graph's reshapes, so it stays what it is.
        with nn.parameter_scope("", scope):
            parameters = nn.get_parameters(grad_only=False)
            save(str(beside), contents, variable_batch_size=False, parameters=parameters)
        beside.rename(path)
    except OSError as error:
        raise PointDetError(f"cannot write {path} ({error.strerror}); choose another place") from None


class NnpNetwork:
    """A saved network, run by NNabla's own loader: a drop-in for `inference.network.Network`."""

    def __init__(self, path: Path) -> None:
        """Errors: PointDetError for a file that NNabla cannot load."""
        try:
            network: Any = NnpLoader(str(path)).get_network(NETWORK)
        except (OSError, ValueError, KeyError, RuntimeError, BadZipFile) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise PointDetError(f"{path} is not a network saved by PointDet ({reason})") from None
        self._image: nn.Variable = network.inputs["image"]
        self._outputs: dict[str, nn.Variable] = dict(network.outputs)

    def __call__(self, images: npt.NDArray[np.uint8]) -> Maps:
        """As `Network`, for the one input shape that was saved."""
        if images.shape != self._image.shape:
            raise PointDetError(f"the network was saved for images {self._image.shape}, not {images.shape}")
        self._image.data.cast(np.uint8)[...] = images
        F.sink(*self._outputs.values()).forward()
        return {name: np.array(v.d, np.float32) for name, v in self._outputs.items()}
