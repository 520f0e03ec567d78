# SPDX-License-Identifier: Apache-2.0
"""The heatmap targets as inputs of the training graph.

Only planes of classes with an object in the image have values above 0: on average 3.5 of 80 in COCO (Lin et
al., 2014, section 5). Only these are copied to a GPU, which fills all other planes with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

import nnabla as nn
import numpy as np
from nnabla.function_bases import scatter_nd

from pointdet.arrays import Batch, Float32Array, Int64Array
from pointdet.runtime import Runtime


class HeatmapInputs:
    """Fills the variables of the heatmap targets, (B, C, h, w) each."""

    def __init__(self, variables: Mapping[str, nn.Variable], runtime: Runtime) -> None:
        self._variables, self._on_cpu, self._context = variables, runtime.on_cpu, runtime.context()

    def fill(self, batch: Batch) -> None:
        """Copy the heatmaps of a batch. Planes that `batch["present"]` (B, C) does not name must be 0."""
        images, classes = np.nonzero(batch["present"])
        for name, variable in self._variables.items():
            if self._on_cpu:
                copy_planes(batch[name], images, classes, variable)
            else:
                with nn.context_scope(self._context):
                    transfer_planes(batch[name], images, classes, variable)


def copy_planes(heatmap: Float32Array, images: Int64Array, classes: Int64Array, out: nn.Variable) -> None:
    """Copy the planes (images[i], classes[i]) of a heatmap (B, C, h, w) to a variable in the memory of the
    CPU. All its other planes become 0."""
    values, others = out.data.cast(np.float32), np.ones(heatmap.shape[:2], np.bool_)
    others[images, classes] = False
    values[others] = 0
    for image, label in zip(images.tolist(), classes.tolist(), strict=True):
        values[image, label] = heatmap[image, label]


def transfer_planes(heatmap: Float32Array, images: Int64Array, classes: Int64Array, out: nn.Variable) -> None:
    """`copy_planes` to a variable in the memory of the current context's device."""
    if len(images) == 0:  # NNabla cannot launch a CUDA kernel for no value
        out.data.zero()
        return
    planes, places = nn.NdArray((len(images), *heatmap.shape[2:])), nn.NdArray((2, len(images)))
    places.cast(np.int32)[...] = images, classes
    for plane, image, label in zip(planes.cast(np.float32), images.tolist(), classes.tolist(), strict=True):
        plane[...] = heatmap[image, label]
    scatter_nd(planes, places, shape=out.shape, outputs=[out.data])
