# SPDX-License-Identifier: Apache-2.0
"""Stored arrays -> a network's parameters: layout and input channels are converted, everything else must fit."""

from __future__ import annotations

from dataclasses import dataclass

import nnabla as nn
import numpy as np

from pointdet.errors import PointDetError
from pointdet.weights.h5_file import Arrays

# The ImageNet classifier that the published NNabla files carry along; no detector has one.
CLASSIFIER = "fc/"
STEM = "conv1/conv/W"  # the first convolution of every backbone


@dataclass(frozen=True)
class Report:
    """What became of the arrays of a file."""

    kept: tuple[str, ...]  # in the file and in the network
    skipped: tuple[str, ...]  # in the file, of another shape than the network's; with the shapes
    new: tuple[str, ...]  # in the network only: keep their fresh values
    unused: tuple[str, ...]  # in the file only

    def describe(self) -> str:
        """The report as a few lines."""
        text = f"kept {len(self.kept)}, skipped {len(self.skipped)}, new {len(self.new)} parameters"
        for title, names in (
            ("skipped", self.skipped),
            ("new", self.new),
            ("not in this network", self.unused),
        ):
            if names:
                text += f"\n  {title}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
        return text


def is_channel_last(arrays: Arrays) -> bool:
    """Whether the arrays come from an NHWC network, seen at their batch normalisation."""
    for name, array in arrays.items():
        if name.endswith("bn/beta"):
            return array.ndim == 4 and array.shape[1] == 1 and array.shape[3] > 1
    return False


def converted(arrays: Arrays, channel_last: bool) -> Arrays:
    """The arrays in NHWC or NCHW, whatever they came in."""
    if is_channel_last(arrays) == channel_last:
        return arrays
    order = (0, 2, 3, 1) if channel_last else (0, 3, 1, 2)
    return {name: a.transpose(order) if a.ndim == 4 else a for name, a in arrays.items()}


def fit(arrays: Arrays, parameters: dict[str, nn.Variable], channel_last: bool) -> Report:
    """Copy every array that fits into the parameter of its name and tell about the others."""
    arrays = converted(arrays, channel_last)
    if STEM in parameters:
        arrays = with_input_channels(arrays, parameters[STEM].shape[3 if channel_last else 1], channel_last)
    kept, skipped = [], []
    for name, variable in parameters.items():
        if name not in arrays:
            continue
        array = arrays[name]
        if array.shape == variable.shape:
            variable.data.cast(np.float32)[...] = array  # fresh parameters may still be of another type
            kept.append(name)
        else:
            skipped.append(f"{name} {array.shape} for {variable.shape}")
    new = [name for name in parameters if name not in arrays]
    unused = [name for name in arrays if name not in parameters and not name.startswith(CLASSIFIER)]
    return Report(tuple(kept), tuple(skipped), tuple(new), tuple(unused))


def fit_all(
    arrays: Arrays, parameters: dict[str, nn.Variable], channel_last: bool, class_bias: str, source: str
) -> None:
    """`fit`, where every parameter must get its array.

    class_bias: path of the parameter with one number per class. Errors: PointDetError with the first misfit.
    """
    report = fit(arrays, parameters, channel_last)
    if class_bias in arrays and arrays[class_bias].shape != parameters[class_bias].shape:
        raise PointDetError(
            f"{source} was trained for {len(arrays[class_bias])} classes, but {parameters[class_bias].shape[0]} are "
            "asked; give the class names it was trained with, or train on from it (main.py --checkpoint)"
        )
    if report.skipped or report.new:
        first = report.skipped[0] if report.skipped else f"{report.new[0]} is missing"
        raise PointDetError(
            f"{source} does not fit this network in {len(report.skipped) + len(report.new)} parameters (first: "
            f"{first}); check arch, num_layers and width"
        )


def with_input_channels(arrays: Arrays, channels: int, channel_last: bool) -> Arrays:
    """The arrays of the same network for images of 3 or 4 channels; the fourth channel of an image is always zero."""
    axis = 3 if channel_last else 1
    if STEM not in arrays or arrays[STEM].shape[axis] not in (3, 4) or arrays[STEM].shape[axis] == channels:
        return arrays
    stem = arrays[STEM]
    if channels == 3:
        stem = np.take(stem, range(3), axis)
    else:
        stem = np.pad(stem, [(0, 1 if a == axis else 0) for a in range(4)])
    return {**arrays, STEM: stem}
