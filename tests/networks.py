# SPDX-License-Identifier: Apache-2.0
"""Whole networks against golden outputs; their weights follow a formula, so that none are stored."""

import zlib

import nnabla as nn
import nnabla.functions as F
import numpy as np
import numpy.typing as npt

from pointdet.config.schema import Config, Dataset
from pointdet.detectors import catalogue
from pointdet.ops.layers import Mode

BN_LEAVES = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}


def formula(key: str, shape: list[int], leaf: str, salt: str, gain: float) -> npt.NDArray[np.float32]:
    """The value of one parameter: normal noise seeded by its published key, scaled by its kind."""
    noise = np.random.RandomState(zlib.crc32((salt + key).encode())).standard_normal(shape)
    values = {
        "W": lambda: gain * np.sqrt(2 / np.prod(shape[1:])) * noise,
        "gamma": lambda: 1 + 0.1 * noise,
        "beta": lambda: 0.1 * noise,
        "b": lambda: 0.1 * noise,
        "mean": lambda: 0.1 * noise,
        "var": lambda: 1 + 0.2 * np.abs(noise),
    }
    return np.asarray(values[leaf](), np.float32)


def nnabla_name(key: str, bottleneck: bool) -> str | None:
    """Official CenterNet's `res_N` key -> our path; None for entries that have no counterpart."""
    parts = key.split(".")
    block = "bottleneck" if bottleneck else "basicblock"
    if parts[-1] == "num_batches_tracked" or parts[0] == "fc":
        return None
    if parts[0] in ("hm", "wh", "reg"):
        return f"{parts[0]}_{'conv1' if parts[1] == '0' else 'final'}/conv/{'W' if parts[2] == 'weight' else 'b'}"
    if parts[0] == "deconv_layers":
        index = int(parts[1])
        scope = f"upsample{index // 3 + 1}"
        return f"{scope}/deconv/W" if index % 3 == 0 else f"{scope}/bn/{BN_LEAVES[parts[2]]}"
    if parts[0] in ("conv1", "bn1"):
        return "conv1/conv/W" if parts[0] == "conv1" else f"conv1/bn/{BN_LEAVES[parts[1]]}"
    scope = f"res{parts[0][5:]}/layer{int(parts[1]) + 1}"
    if parts[2] == "downsample":
        scope = f"{scope}/{block}_s/shortcut_conv"
        return f"{scope}/conv/W" if parts[3] == "0" else f"{scope}/bn/{BN_LEAVES[parts[4]]}"
    scope = f"{scope}/{block}{parts[2][-1]}"
    return f"{scope}/conv/W" if parts[2].startswith("conv") else f"{scope}/bn/{BN_LEAVES[parts[3]]}"


def dla_name(key: str) -> tuple[str | None, tuple[int, ...]]:
    """Official CenterNet's `dlav0_34` key -> our path, and the order of the joined maps that its kernel reads.

    The order counts blocks of input channels in the official order; () where nothing is joined. None for entries
    that have no counterpart: the projections of levels 3 and 4 are computed there, but not used.
    """
    parts = key.removeprefix("base.").split(".")
    if parts[-1] == "num_batches_tracked" or parts[0] == "fc":
        return None, ()
    if parts[0] in ("hm", "wh", "reg"):
        return nnabla_name(key, bottleneck=False), ()
    joins: tuple[int, ...] = ()
    if parts[0] == "dla_up":
        step, (kind, index), entry = parts[1], parts[2].split("_"), parts[3]
        scope = NECK[step, kind if kind == "node" else "proj", int(index)]
        if kind == "up":
            return f"{scope}/deconv/W", ()
        joins = () if kind == "proj" or scope.endswith("level3up_c_root/root") else (1, 0)
    elif parts[0] == "base_layer":
        scope, entry = "conv1", parts[1]
    elif parts[0] in ("level0", "level1"):
        scope, entry = f"{parts[0]}/conv1", parts[1]
    else:
        deep = parts[0] in ("level3", "level4")
        if deep and parts[1] == "project":
            return None, ()
        scope = f"{parts[0]}/node{parts[1][-1]}" if deep else parts[0]
        inner = parts[2:] if deep else parts[1:]
        if inner[0] == "project":
            entry = inner[1]
        elif inner[0] == "root":
            joins = {"level5": (1, 2, 0)}.get(scope, (1, 3, 0, 2) if scope.endswith("node2") else (1, 0))
            scope, entry = f"{scope}/root", "0" if inner[1] == "conv" else "1"
        else:
            scope = f"{scope}/block{inner[0][-1]}/basicblock{inner[1][-1]}"
            entry = "0" if inner[1].startswith("conv") else "1"
    if entry == "0":
        return f"{scope}/conv/W", joins
    return f"{scope}/bn/{BN_LEAVES[parts[-1]]}", ()


def rejoined(weight: npt.NDArray[np.float32], order: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The kernel with its input channels in the order in which we join the maps."""
    if not order:
        return weight
    out = weight.shape[0]
    # [second block, first block, pooled input (half as wide), the inner tree]
    widths = {4: (out, out, out // 2, out), 3: (out, out, out // 2)}.get(len(order), (out, out))
    blocks = np.split(weight, np.cumsum(widths)[:-1], axis=1)
    return np.concatenate([blocks[i] for i in order], axis=1)


NECK = {
    ("ida_0", "proj", 1): "up16/up",
    ("ida_0", "node", 1): "up8/root",
    ("ida_1", "proj", 1): "up4/residual_level3/up",
    ("ida_1", "proj", 2): "up8/up",
    ("ida_1", "node", 1): "up4/residual_level3/level3up_root/root",
    ("ida_1", "node", 2): "up4/residual_level3/x_root/root",
    ("ida_2", "proj", 1): "up2_c/up",
    ("ida_2", "proj", 2): "up2_b/up",
    ("ida_2", "proj", 3): "up4/up",
    ("ida_2", "node", 1): "up2_c/level3up_c_root/root",
    ("ida_2", "node", 2): "up2_c/level2up_root/root",
    ("ida_2", "node", 3): "up2_c/x_root/root",
}


def config(**sections):
    return Config(dataset=Dataset(dataset="x", format="coco"), **sections)


def run(detector, x, channel_last):
    """The raw outputs for an input that already is normalised."""
    variable = nn.Variable((1, *x.shape[2:], 3) if channel_last else x.shape)
    variable.d = x.transpose(0, 2, 3, 1) if channel_last else x
    mode = Mode(training=False, channel_last=channel_last)
    with nn.parameter_scope("", detector.scope):
        outputs = detector.head(detector.backbone(variable, mode)[0], mode)
    for output in outputs.values():
        output.forward()
    return {name: output.d.copy() for name, output in outputs.items()}


def assert_close(ours, golden, name):
    """1e-4 of the largest value, on the whole map or on its stored parts."""
    if name in golden:
        assert np.abs(ours - golden[name]).max() <= 1e-4 * np.abs(golden[name]).max()
        return
    parts = {
        "sub": ours[:, :, 1::4, 2::4],
        "ch3": ours[:, 3],
        "ch_sum": ours.sum((2, 3), dtype=np.float64),
        "ch_abs": np.abs(ours).sum((2, 3), dtype=np.float64),
    }
    for part, value in parts.items():
        expected = golden[f"{name}/{part}"]
        assert np.abs(value - expected).max() <= 1e-4 * np.abs(expected).max(), part


def assert_layouts_agree(model):
    """The same parameters give the same gradients in NCHW and NHWC."""
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    gradients = []
    for channel_last in (False, True):
        nn.clear_parameters()
        nn.seed(5)
        detector = catalogue.build(config(model=model, mixed_precision={"channel_last": channel_last}), 3)
        variable = nn.Variable((2, 64, 64, 3) if channel_last else (2, 3, 64, 64))
        variable.d = x.transpose(0, 2, 3, 1) if channel_last else x
        mode = Mode(training=True, channel_last=channel_last)
        with nn.parameter_scope("", detector.scope):
            outputs = detector.head(detector.backbone(variable, mode)[0], mode)
        loss = sum(F.sum(o * o) for o in outputs.values())
        for parameter in detector.parameters(learnt_only=True).values():
            parameter.grad.zero()
        loss.forward()
        loss.backward()
        found = {}
        for name, parameter in detector.parameters(learnt_only=True).items():
            grad = parameter.g.copy()
            four = channel_last and grad.ndim == 4
            found[name] = (grad.transpose(0, 3, 1, 2) if four else grad).ravel()
        gradients.append(found)
    for name, first in gradients[0].items():
        assert np.abs(first - gradients[1][name]).max() <= 1e-4 * max(np.abs(first).max(), 1e-6), name
