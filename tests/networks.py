# SPDX-License-Identifier: Apache-2.0
"""Weights by formula, so that golden outputs of whole networks need no stored weights."""

import zlib

import numpy as np
import numpy.typing as npt

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
