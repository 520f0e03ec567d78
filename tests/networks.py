# SPDX-License-Identifier: Apache-2.0
"""Whole networks against golden outputs. A formula gives their weights, so that no weights are stored."""

import zlib
from typing import Any
from unittest import mock

import nnabla as nn
import nnabla.functions as F
import numpy as np
import numpy.typing as npt

from pointdet.config.schema import Config, DatasetConfig
from pointdet.detectors import catalogue
from pointdet.detectors.common import base
from pointdet.ops.mode import Mode

# Bounds of `assert_golden`. Most networks differ by 1e-5. Two exchanged channels of a layer make 1e-3 and more.
FLOOR, NOISES, CEILING = 1e-4, 4, 1e-3


def formula(key: str, shape: list[int], leaf: str, salt: str, gain: float) -> npt.NDArray[np.float32]:
    """The value of one parameter: normal noise seeded by its published key, scaled by its kind."""
    noise = np.random.RandomState(zlib.crc32((salt + key).encode())).standard_normal(shape)
    gain *= 0.2 if key.endswith("conv_offset_mask.weight") else 1
    values = {
        "W": lambda: gain * np.sqrt(2 / np.prod(shape[1:])) * noise,
        "gamma": lambda: 1 + 0.1 * noise,
        "beta": lambda: 0.1 * noise,
        "b": lambda: 0.1 * noise,
        "mean": lambda: 0.1 * noise,
        "var": lambda: 1 + 0.2 * np.abs(noise),
    }
    return np.asarray(values[leaf](), np.float32)


def published(table: dict[str, Any], mode: str) -> dict[str, npt.NDArray[np.float32]]:
    """The parameters of a network of the official code under their keys, but for num_batches_tracked."""
    kinds = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}
    salt, gain = "B/" if mode == "B" else "", table[f"gain_{mode}"]
    return {
        key: formula(key, shape, "W" if len(shape) == 4 else kinds[key.rpartition(".")[2]], salt, gain)
        for key, shape in table["parameters"]
        if not key.endswith("num_batches_tracked")
    }


def hrnet_parameters(channels: int) -> dict[str, list[int]]:
    """Key -> shape of every entry of a published ImageNet HRNet (1956 of them), `channels` on its finest branch."""
    entries: dict[str, list[int]] = {}

    def pair(conv: str, norm: str, out: int, into: int, kernel: int, bias: bool = False) -> None:
        entries[f"{conv}.weight"] = [out, into, kernel, kernel]
        if bias:
            entries[f"{conv}.bias"] = [out]
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            entries[f"{norm}.{leaf}"] = [out]
        entries[f"{norm}.num_batches_tracked"] = []

    def sequence(scope: str, out: int, into: int, kernel: int, bias: bool = False) -> None:
        pair(f"{scope}.0", f"{scope}.1", out, into, kernel, bias)

    def bottleneck(scope: str, into: int, width: int) -> None:
        sizes = ((width, into, 1), (width, width, 3), (4 * width, width, 1))
        for k, (out, before, kernel) in enumerate(sizes, 1):
            pair(f"{scope}.conv{k}", f"{scope}.bn{k}", out, before, kernel)
        if into != 4 * width:
            sequence(f"{scope}.downsample", 4 * width, into, 1)

    widths = [channels, 2 * channels, 4 * channels, 8 * channels]
    pair("conv1", "bn1", 64, 3, 3)
    pair("conv2", "bn2", 64, 64, 3)
    for k in range(4):
        bottleneck(f"layer1.{k}", 256 if k else 64, 64)
    sequence("transition1.0", channels, 256, 3)
    for stage, modules in ((2, 1), (3, 4), (4, 3)):
        into = widths[stage - 2] if stage > 2 else 256
        sequence(f"transition{stage - 1}.{stage - 1}.0", widths[stage - 1], into, 3)
        for module in range(modules):
            scope = f"stage{stage}.{module}"
            for b in range(stage):
                for k in range(4):
                    for layer in (1, 2):
                        block = f"{scope}.branches.{b}.{k}"
                        pair(f"{block}.conv{layer}", f"{block}.bn{layer}", widths[b], widths[b], 3)
            for i in range(stage):
                for j in range(stage):
                    fuse = f"{scope}.fuse_layers.{i}.{j}"
                    if j > i:
                        sequence(fuse, widths[i], widths[j], 1)
                    for k in range(i - j):
                        sequence(f"{fuse}.{k}", widths[i] if k == i - j - 1 else widths[j], widths[j], 3)
    for b in range(4):
        bottleneck(f"incre_modules.{b}.0", widths[b], 32 << b)
    for b in range(3):
        sequence(f"downsamp_modules.{b}", 256 << b, 128 << b, 3, bias=True)
    sequence("final_layer", 2048, 1024, 1, bias=True)
    return entries | {"classifier.weight": [1000, 2048], "classifier.bias": [1000]}


def config(**sections):
    return Config(dataset=DatasetConfig(dataset="x", format="coco"), **sections)


def graph(detector, x, mode):
    """The graph of the raw outputs of every stack, for a normalised input (B, 3, H, W)."""
    images = nn.Variable.from_numpy_array(x.transpose(0, 2, 3, 1))
    matrix = nn.Variable.from_numpy_array(np.broadcast_to(np.eye(3, 4, dtype=np.float32), (len(x), 3, 4)))
    with mock.patch.object(base, "colour", normalised if mode.through_python else base.colour):
        return detector.outputs(images, matrix, mode, nn.get_current_context(), every_stack=True)


def normalised(images, _matrix, _mode):
    """In place of the CPU's function for the colour matrix, which takes uint8: the images are normalised."""
    return images


def run_stacks(detector, x, mode):
    """The values of `graph`."""
    return _values(graph(detector, x, mode))


def run(detector, x, channel_last):
    """The values of the last stack."""
    return run_stacks(detector, x, Mode(training=False, channel_last=channel_last))[-1]


def _values(stacks):
    nn.forward_all([output for outputs in stacks for output in outputs.values()])
    return [{name: output.d.copy() for name, output in outputs.items()} for outputs in stacks]


def _compared(array, golden, name):
    """Part -> (values, golden values): the whole map, or its stored parts."""
    if name in golden:
        return {name: (array, golden[name])}
    parts = {
        "sub": array[:, :, 1::4, 2::4],
        "ch3": array[:, 3],
        "ch_sum": array.sum((2, 3), dtype=np.float64),
        "ch_abs": np.abs(array).sum((2, 3), dtype=np.float64),
    }
    return {f"{name}/{part}": (values, golden[f"{name}/{part}"]) for part, values in parts.items()}


def assert_golden(detector, golden, mode, names):
    """Assert that the outputs of every stack for golden["x"] are the stored ones. Returns the outputs.

    names: output -> golden name, with {} for the number of the stack. The bound is relative to the largest value. It
    is `FLOOR` or, for a network that amplifies rounding errors, `NOISES` times its noise: the change of the outputs
    when the input changes by a relative 1e-7. It is never more than `CEILING`.
    """
    x = golden["x"]
    stacks = run_stacks(detector, x, mode)

    def compared(outputs):
        return {
            part: pair
            for number, stack in enumerate(outputs)
            for output, name in names.items()
            for part, pair in _compared(stack[output], golden, name.format(number)).items()
        }

    found = compared(stacks)
    errors = {part: distance(ours, theirs) for part, (ours, theirs) in found.items()}
    if not all(error <= FLOOR for error in errors.values()):  # one may be NaN
        rng, noise = np.random.default_rng(0), dict.fromkeys(found, 0.0)
        for _ in range(3):
            moved = np.float32(x * (1 + 1e-7 * rng.standard_normal(x.shape)))
            for part, (ours, _) in compared(run_stacks(detector, moved, mode)).items():
                noise[part] = max(noise[part], distance(ours, found[part][0]))
        bounds = {part: min(max(FLOOR, NOISES * noise[part]), CEILING) for part in found}
        assert all(error <= bounds[part] for part, error in errors.items()), (errors, bounds)
    return stacks


def distance(found, expected):
    """The largest difference, divided by the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def assert_layouts_agree(model):
    """The same parameters give the same gradients in NCHW and NHWC, of all stacks together."""
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    gradients = []
    for channel_last in (False, True):
        nn.clear_parameters()
        nn.seed(5)
        detector = catalogue.build(config(model=model, mixed_precision={"channel_last": channel_last}), 3)
        stacks = graph(detector, x, Mode(training=True, channel_last=channel_last))
        loss = sum(F.sum(o * o) for outputs in stacks for o in outputs.values())
        for parameter in detector.parameters(trainable_only=True).values():
            parameter.grad.zero()
        loss.forward()
        loss.backward()
        found = {}
        for name, parameter in detector.parameters(trainable_only=True).items():
            grad = parameter.g.copy()
            four = channel_last and grad.ndim == 4
            found[name] = (grad.transpose(0, 3, 1, 2) if four else grad).ravel()
        gradients.append(found)
    # A bias before a normalisation has a gradient of rounding errors only.
    least = 1e-4 * max(np.abs(first).max() for first in gradients[0].values())
    for name, first in gradients[0].items():
        assert np.abs(first - gradients[1][name]).max() <= 1e-4 * max(np.abs(first).max(), least), name
