# SPDX-License-Identifier: Apache-2.0
"""uint8 images -> maps by name: the static inference graph of a detector, one per input shape."""

from __future__ import annotations

from dataclasses import dataclass, field

import nnabla as nn
import nnabla.functions as F
import numpy as np
import numpy.typing as npt

from pointdet.detectors.base import Detector
from pointdet.ops.layers import Mode
from pointdet.runtime import Runtime
from pointdet.structures import Maps


@dataclass
class Graph:
    """Inputs and outputs of one built graph."""

    images: nn.Variable  # (B, H, W, 3) uint8
    colour: nn.Variable  # (B, C, 4)
    outputs: dict[str, nn.Variable]  # (B, K, H/4, W/4), rounded up, float32; heatmaps as probabilities


def build_graph(
    detector: Detector, runtime: Runtime, half: bool, shape: tuple[int, int, int], exportable: bool = False
) -> Graph:
    """The graph for (batch, height, width); parameters that do not exist yet are drawn.

    exportable: of NNabla's own functions only, so that it can be saved.
    """
    batch, height, width = shape
    images = nn.Variable((batch, height, width, 3))
    colour = nn.Variable((batch, detector.image_channels, 4))
    mode = Mode(
        training=False,
        channel_last=detector.channel_last,
        has_channel_last=runtime.has_channel_last,
        kernels="nnabla" if exportable else runtime.kernels(half),
        norm_context=runtime.norm_context(half),
    )
    with nn.context_scope(runtime.context()):
        (raw,) = detector.outputs(images, colour, mode, runtime.context(half))
        outputs = {
            name: F.sigmoid(v) if name in detector.head.heatmaps else F.identity(v) for name, v in raw.items()
        }
    for variable in outputs.values():
        variable.persistent = True
    return Graph(images, colour, outputs)


@dataclass
class Network:
    """Runs a detector on batches of equal shape; graphs are built once for each shape and kept."""

    detector: Detector
    runtime: Runtime
    colour: npt.NDArray[np.float32]  # (C, 4), the normalisation
    half: bool = False
    _graphs: dict[tuple[int, int, int], Graph] = field(default_factory=dict)

    def __call__(self, images: npt.NDArray[np.uint8]) -> Maps:
        """(B, H, W, 3) uint8 BGR, H and W as the backbone takes them -> maps (B, K, H/4, W/4) float32 by name."""
        batch, height, width, _ = images.shape
        shape = (batch, height, width)
        if shape not in self._graphs:
            self._graphs[shape] = build_graph(self.detector, self.runtime, self.half, shape)
        graph = self._graphs[shape]
        graph.images.data.cast(np.uint8)[...] = images
        graph.colour.data.cast(np.float32)[...] = self.colour
        F.sink(*graph.outputs.values()).forward(clear_buffer=True)
        return {name: np.array(v.data.data, np.float32) for name, v in graph.outputs.items()}
