# SPDX-License-Identifier: Apache-2.0
"""uint8 images -> maps by name: the protocol of all inference networks, and its implementation in NNabla."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

import nnabla as nn
import nnabla.functions as F
import numpy as np

from pointdet.arrays import Float32Array, Image, Maps
from pointdet.detectors.common.base import Detector
from pointdet.ops.cpu.process_state import building, clear_memory_cache, forward_pass
from pointdet.ops.cpu.sigmoid import sigmoid
from pointdet.ops.map_sizes import check_map_sizes
from pointdet.ops.mode import Mode
from pointdet.runtime import Runtime

# The five scales of a multi-scale test, and for some of them a last batch with fewer images. A new graph costs 5 to
# 10 % of its forward pass (DLAv0-34, 512 x 512).
MAX_GRAPHS = 8


class Network(Protocol):
    """An inference network."""

    def __call__(self, images: Image) -> Maps:
        """BGR images (B, H, W, 3) uint8 -> maps (B, K, H/4, W/4) float32 by name.

        H and W must fit the network, see `ModelConfig.check_side`. The next call may overwrite the maps.
        """


@dataclass
class Graph:
    """The inputs and outputs of an inference graph."""

    images: nn.Variable  # (B, H, W, 3) uint8
    colour: nn.Variable  # (B, C, 4)
    outputs: dict[str, nn.Variable]  # (B, K, H/4, W/4), rounded up, float32; heatmaps are probabilities
    sink: nn.Variable  # its forward pass computes all outputs


def build_graph(
    detector: Detector, runtime: Runtime, half: bool, shape: tuple[int, int, int], exportable: bool = False
) -> Graph:
    """The inference graph of a detector.

    Parameters that do not exist yet are created with their initial values.

    Args:
        half: float16 inside the network.
        shape: batch size, height and width of the input.
        exportable: use NNabla's own functions only, so that the graph can be exported.
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
        backward=False,
    )
    with building, nn.context_scope(runtime.context()):
        (raw,) = detector.outputs(images, colour, mode, runtime.context(half))
        probability = F.sigmoid if mode.kernels == "nnabla" else sigmoid
        outputs = {
            name: probability(v) if name in detector.head.heatmaps else F.identity(v)
            for name, v in raw.items()
        }
        sink = F.sink(*outputs.values())
    if not runtime.on_cpu:
        check_map_sizes(outputs.values())
    for variable in outputs.values():
        variable.persistent = True
    return Graph(images, colour, outputs, sink)


@dataclass
class NNablaNetwork:
    """A detector's network in NNabla, with one static graph for each of the last `MAX_GRAPHS` input shapes.

    Several threads may call it. The passes of one detector run one after the other, those of several
    detectors at the same time.
    """

    detector: Detector
    runtime: Runtime
    colour: Float32Array  # (C, 4), the normalisation
    half: bool = False
    _graphs: OrderedDict[tuple[int, int, int], Graph] = field(default_factory=OrderedDict)

    def __call__(self, images: Image) -> Maps:
        """As `Network.__call__`."""
        batch, height, width, _ = images.shape
        with self.detector.running:
            graph = self._graph((batch, height, width))
            with forward_pass():
                graph.images.data.cast(np.uint8)[...] = images
                graph.colour.data.cast(np.float32)[...] = self.colour
                graph.sink.forward(clear_buffer=True)
                return {name: np.array(v.data.data, np.float32) for name, v in graph.outputs.items()}

    def _graph(self, shape: tuple[int, int, int]) -> Graph:
        """The graph for inputs (B, H, W). The least recently used graph leaves, with its memory."""
        if shape not in self._graphs:
            if len(self._graphs) == MAX_GRAPHS:
                self._graphs.popitem(last=False)
                clear_memory_cache(self.runtime.device)
            self._graphs[shape] = build_graph(self.detector, self.runtime, self.half, shape)
        self._graphs.move_to_end(shape)
        return self._graphs[shape]
