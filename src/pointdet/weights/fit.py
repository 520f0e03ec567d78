# SPDX-License-Identifier: Apache-2.0
"""Copy stored arrays into the parameters of a network. Layout and number of input channels are converted."""

from __future__ import annotations

from dataclasses import dataclass

import nnabla as nn
import numpy as np

from pointdet.arrays import Arrays
from pointdet.errors import PointDetError, first_few
from pointdet.weights import values
from pointdet.weights.class_rows import Classes

# The ImageNet classifier in the published NNabla files. No detector uses it.
CLASSIFIER = "fc/"
MAX_NAMES = 6  # parameters that each line of a report names
STEM = "conv1/conv/W"  # the first convolution of every backbone


@dataclass(frozen=True)
class Report:
    """Which arrays of a file were copied."""

    kept: tuple[str, ...]  # in the file and in the network, with the same shape: copied
    skipped: tuple[str, ...]  # in both, with different shapes: not copied; the text has the shapes
    new: tuple[str, ...]  # only in the network: they keep their initial values
    unused: tuple[str, ...]  # only in the file
    by_class: tuple[str, ...] = ()  # with one row per class: the rows of `classes.kept` were copied
    classes: Classes | None = None

    def describe(self) -> str:
        """The report as a few lines."""
        text = f"kept {len(self.kept)}, skipped {len(self.skipped)}, new {len(self.new)} parameters"
        lists = [("skipped", self.skipped), ("new", self.new), ("not in this network", self.unused)]
        if self.by_class and self.classes:
            text += f", by class name {len(self.by_class)}"
            lists += [
                ("classes that keep their rows", self.classes.kept),
                ("classes that start anew", self.classes.new),
                ("classes that this run does not have", self.classes.left_out),
            ]
        for title, names in lists:
            if names:
                text += f"\n  {title}: {first_few(names, MAX_NAMES)}"
        return text


def is_channel_last(arrays: Arrays) -> bool:
    """Whether the arrays are in NHWC, by the shape of a batch normalisation."""
    for name, array in arrays.items():
        if name.endswith("bn/beta"):
            return array.ndim == 4 and array.shape[1] == 1 and array.shape[3] > 1
    return False


def converted(arrays: Arrays, channel_last: bool) -> Arrays:
    """The arrays in NHWC (channel_last) or NCHW. Their present layout is detected."""
    if is_channel_last(arrays) == channel_last:
        return arrays
    order = (0, 2, 3, 1) if channel_last else (0, 3, 1, 2)
    return {name: a.transpose(order) if a.ndim == 4 else a for name, a in arrays.items()}


def fit(
    arrays: Arrays, parameters: dict[str, nn.Variable], channel_last: bool, classes: Classes | None = None
) -> Report:
    """Copy every array whose name and shape fit into its parameter, and report the others.

    classes: the class names, if they differ. In parameters with one row per class, the rows of the classes that
    both have are then copied by name.
    """
    arrays = converted(arrays, channel_last)
    if STEM in parameters:
        arrays = with_input_channels(arrays, parameters[STEM].shape[3 if channel_last else 1], channel_last)
    kept, skipped, by_class = [], [], []
    for name, variable in parameters.items():
        if name not in arrays:
            continue
        array = arrays[name]
        if classes is not None and classes.fits(name, array, variable.shape):
            classes.copy(array, variable.data.cast(np.float32))
            by_class.append(name)
        elif array.shape == variable.shape:
            variable.data.cast(np.float32)[...] = array  # new parameters may still have another type
            kept.append(name)
        else:
            skipped.append(f"{name} {array.shape} for {variable.shape}")
    new = [name for name in parameters if name not in arrays]
    unused = [name for name in arrays if name not in parameters and not name.startswith(CLASSIFIER)]
    return Report(tuple(kept), tuple(skipped), tuple(new), tuple(unused), tuple(by_class), classes)


def fit_all(
    arrays: Arrays, parameters: dict[str, nn.Variable], channel_last: bool, class_bias: str, source: str
) -> None:
    """As `fit`, but every parameter must have an array that fits.

    class_bias: path of a parameter with one value per class. source: file name for the error message.
    Errors: PointDetError, which names the first parameter that does not fit, or whose values are wrong.
    """
    report = fit(arrays, parameters, channel_last)
    if (
        class_bias in arrays
        and arrays[class_bias].shape != parameters[class_bias].shape
        and arrays[class_bias].ndim == 1
    ):
        raise PointDetError(
            f"{source} was trained for {len(arrays[class_bias])} classes, but "
            f"{parameters[class_bias].shape[0]} are requested; give the class names it was trained with, or "
            "fine-tune it (main.py --checkpoint)"
        )
    if report.skipped or report.new:
        first = report.skipped[0] if report.skipped else f"{report.new[0]} is missing"
        raise PointDetError(
            f"{source} does not fit this network in {len(report.skipped) + len(report.new)} parameters "
            f"(first: {first}); check arch, num_layers and width"
        )
    values.check({name: arrays[name] for name in report.kept}, source)


def with_input_channels(arrays: Arrays, channels: int, channel_last: bool) -> Arrays:
    """The arrays with a first convolution for images of 3 or 4 channels.

    The fourth channel of an image is always zero; its weights are zero or are removed.
    """
    axis = 3 if channel_last else 1
    if STEM not in arrays or arrays[STEM].ndim != 4:
        return arrays
    if arrays[STEM].shape[axis] not in (3, 4) or arrays[STEM].shape[axis] == channels:
        return arrays
    stem = arrays[STEM]
    if channels == 3:
        stem = np.take(stem, range(3), axis)
    else:
        stem = np.pad(stem, [(0, 1 if a == axis else 0) for a in range(4)])
    return {**arrays, STEM: stem}


def with_reversed_colours(arrays: Arrays, channel_last: bool) -> Arrays:
    """The arrays with a first convolution that takes the colours in the opposite order, BGR or RGB.

    The outputs are the same, bit for bit, if the normalisation is the same for each colour.
    """
    axis = 3 if channel_last else 1
    if STEM not in arrays or arrays[STEM].ndim != 4:
        return arrays
    order = [2, 1, 0, *range(3, arrays[STEM].shape[axis])]
    return {**arrays, STEM: np.take(arrays[STEM], order, axis)}
