# SPDX-License-Identifier: Apache-2.0
"""How the graph of a network is built: layout, device functions, training or inference."""

from __future__ import annotations

from dataclasses import dataclass, replace

import nnabla as nn


@dataclass(frozen=True)
class Mode:
    """How the graph of a network is built."""

    training: bool  # normalise with batch statistics and update the running ones; else use the running ones
    channel_last: bool = False  # weights, and maps of NNabla's functions, are NHWC; else NCHW
    has_channel_last: bool = False  # the device has NHWC functions; else transposes surround each NHWC layer
    kernels: str = "nnabla"  # "blas" or "onednn": a float32 graph on the CPU that is not saved
    recompute: bool = False  # gradient checkpointing before normalisations and inside residual units
    norm_context: nn.Context | None = None  # for batch normalisation, if not that of the other layers
    backward: bool = (
        True  # the graph can have a backward pass; without, convolution and normalisation are one pass
    )

    @property
    def through_python(self) -> bool:
        """Whether layers are the Python functions of `ops.cpu`."""
        return self.kernels != "nnabla"

    @property
    def maps_last(self) -> bool:
        """Whether maps are NHWC. Those of `ops.cpu` always are."""
        return self.channel_last or self.through_python

    @property
    def channel_axis(self) -> int:
        return 3 if self.maps_last else 1

    @property
    def row_axis(self) -> int:
        """The axis of the rows of a map. That of its columns is the next one."""
        return 1 if self.maps_last else 2

    @property
    def wrapped(self) -> bool:
        """Whether NHWC layers are computed as NCHW layers between two transposes."""
        return self.channel_last and not self.has_channel_last and not self.through_python

    @property
    def unwrapped(self) -> Mode:
        """The mode between the transposes."""
        return replace(self, channel_last=False)
