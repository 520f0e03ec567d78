# SPDX-License-Identifier: Apache-2.0
"""Exchanged heads in published files are recognised and corrected."""

import numpy as np

from pointdet.weights.published import heads_look_swapped, with_swapped_heads


def trained(offset, size):
    """Parameters as of a trained network. offset, size: mean outputs of the heads in cells."""
    rng = np.random.default_rng(0)
    arrays = {}
    for head, bias in (("reg", offset), ("wh", size)):
        arrays[f"{head}_conv1/conv/W"] = rng.standard_normal((8, 8, 3, 3)).astype(np.float32)
        arrays[f"{head}_final/conv/W"] = (bias * 0.3 * rng.standard_normal((2, 8, 1, 1))).astype(np.float32)
        arrays[f"{head}_final/conv/b"] = np.full(2, bias, np.float32)
    return {"conv1/conv/W": np.ones((8, 3, 7, 7), np.float32), **arrays, "hm_final/conv/b": np.zeros(3)}


def test_exchanged_heads_are_recognised():
    arrays = trained(offset=0.5, size=9)
    assert not heads_look_swapped(arrays)
    assert heads_look_swapped(with_swapped_heads(arrays))


def test_files_without_these_heads():
    arrays = with_swapped_heads(trained(offset=0.5, size=9))
    del arrays["wh_final/conv/b"]
    assert not heads_look_swapped(arrays)
    assert not heads_look_swapped({"fc/affine/W": np.zeros(3)})


def test_heads_are_exchanged():
    arrays = trained(offset=0.5, size=9)
    swapped = with_swapped_heads(arrays)
    assert set(swapped) == set(arrays)
    for part in ("conv1/conv/W", "final/conv/W", "final/conv/b"):
        assert swapped[f"reg_{part}"] is arrays[f"wh_{part}"]
        assert swapped[f"wh_{part}"] is arrays[f"reg_{part}"]
    for name in ("conv1/conv/W", "hm_final/conv/b"):
        assert swapped[name] is arrays[name]
    again = with_swapped_heads(swapped)
    assert all(again[name] is arrays[name] for name in arrays)
