# SPDX-License-Identifier: Apache-2.0
"""The ends of parameter names: what PyTorch calls the parameters of a layer, and what we do."""

from __future__ import annotations

LEAVES = {
    "conv": {"weight": "W", "bias": "b"},
    "bn": {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"},
}


def path(scope: str, layer: str, leaf: str) -> str | None:
    """Our path of a parameter in `scope`; None for num_batches_tracked, which we do not have.

    `layer`: conv, conv1, bn2 and the like, or the place in a pair: "0", the convolution, "1", its normalisation.
    """
    kind = "conv" if layer.startswith("conv") or layer == "0" else "bn"
    ours = LEAVES[kind].get(leaf)
    return f"{scope}/{kind}/{ours}" if ours else None
