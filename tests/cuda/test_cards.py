# SPDX-License-Identifier: Apache-2.0
"""The choice of GPUs: --gpus, CUDA_VISIBLE_DEVICES, schedulers, and too few GPUs."""

import pytest

from pointdet.cuda.cards import Shown, choose
from pointdet.errors import PointDetError

EIGHT = tuple(f"GPU-{number}" for number in range(8))


def alike(ranks, variable=None, uuids=EIGHT):
    return [Shown(variable, uuids)] * ranks


@pytest.mark.parametrize(
    "variable, uuids, cards",
    [
        (None, EIGHT[:2], ("0", "1")),
        (None, None, None),
        (None, (), ()),
        ("3,5", EIGHT, ("3", "5")),
        (" 3 , 5 ", None, ("3", "5")),
        ("GPU-8932f937,MIG-a/1/0", EIGHT, ("GPU-8932f937", "MIG-a/1/0")),
        ("0,2,-1,1", EIGHT, ("0", "2")),  # as in NVIDIA's documentation
        ("0,1,8", EIGHT, ("0", "1")),
        ("", EIGHT, ()),
        ("-1", None, ()),
        ("NoDevFiles", EIGHT, ()),  # Slurm without GPUs
    ],
)
def test_cards_that_a_rank_is_shown(variable, uuids, cards):
    assert Shown(variable, uuids).cards == cards


@pytest.mark.parametrize(
    "gpus, ranks, chosen",
    [
        (None, alike(1), ["0"]),
        (None, alike(3), ["0", "1", "2"]),
        (None, alike(2, uuids=None), ["0", "1"]),
        (None, alike(2, "GPU-b,GPU-a"), ["GPU-b", "GPU-a"]),
        ([2], alike(1), ["2"]),
        ([2], alike(1, uuids=None), ["2"]),
        ([3, 1, 0], alike(2), ["3", "1"]),
        ([1, 0], alike(2, "4,6"), ["6", "4"]),
        # A scheduler shows each rank its own GPU: by the variable, by a device cgroup (the number is 0 for each), or
        # two GPUs to each pair of ranks.
        (None, [Shown("5", EIGHT), Shown("2", EIGHT)], ["5", "2"]),
        (None, [Shown("GPU-5", EIGHT), Shown("GPU-2", EIGHT)], ["GPU-5", "GPU-2"]),
        (None, [Shown("0", ("GPU-a",)), Shown("0", ("GPU-b",))], ["0", "0"]),
        (None, [Shown(None, ("GPU-a",)), Shown(None, ("GPU-b",))], ["0", "0"]),
        (None, [Shown("0,1", None), Shown("2,3", None), Shown("0,1", None)], ["0", "2", "1"]),
        ([0], [Shown("5", EIGHT), Shown("2", EIGHT)], ["5", "2"]),
    ],
)
def test_each_rank_gets_a_card(gpus, ranks, chosen):
    assert choose(gpus, ranks) == chosen


@pytest.mark.parametrize(
    "gpus, ranks, sentence",
    [
        (
            None,
            alike(3, uuids=EIGHT[:2]),
            "this host has 3 ranks, but the driver shows 2 GPUs; start 2 ranks on",
        ),
        (
            None,
            alike(2, "6"),
            "this host has 2 ranks, but CUDA_VISIBLE_DEVICES=6 shows 1 GPU; start 1 rank on",
        ),
        (
            [4],
            alike(4),
            "has 4 ranks, but --gpus 4 names 1 GPU; name one GPU for each rank, such as --gpus 0,1,2,3",
        ),
        ([0, 8], alike(2), "--gpus 0,8 names GPU 8, but the driver shows 8 GPUs; the numbers count from 0"),
        ([1], alike(1, "7"), "--gpus 1 names GPU 1, but CUDA_VISIBLE_DEVICES=7 shows 1 GPU"),
        (None, alike(1, ""), "CUDA_VISIBLE_DEVICES= shows no GPU; use the CPU with --gpus -1"),
        ([0], alike(1, None, ()), "the driver shows no GPU; use the CPU with --gpus -1"),
        (None, alike(2, "3,3"), "ranks 0 and 1 of this host would both use GPU 3; set CUDA_VISIBLE_DEVICES"),
        (None, [Shown("0,1", EIGHT), Shown("0", EIGHT)], "ranks 0 and 1 of this host would both use GPU 0"),
    ],
)
def test_errors_name_the_counts_and_the_fix(gpus, ranks, sentence):
    with pytest.raises(PointDetError) as raised:
        choose(gpus, ranks)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
