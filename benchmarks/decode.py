# SPDX-License-Identifier: Apache-2.0
"""The time to decode the maps of CornerNet and of keypoint triplets into detections, and the parts of this
time.

python benchmarks/decode.py: 100 x 100 corners, 1000 candidates, 80 classes, maps of 128 x 128, one core.
Triplets also have 100 centres. Times are the minimum of all repeats. The bound is 10 ms for CornerNet's
decoding and Gaussian soft-NMS.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

# NumPy reads these when it is imported.
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import cv2
import machine
import numpy as np

from pointdet.arrays import Maps
from pointdet.config.schema import CornerNetConfig
from pointdet.detectors.common.heatmaps import peaks
from pointdet.detectors.cornernet.codec import CORNERS, CornerNetCodec
from pointdet.detectors.triplet.codec import KEYPOINTS, TripletCodec

BOUND = 10.0
SIDE, CLASSES, DETECTIONS = 511, 80, 100


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=int, default=30, help="repeats, of which the fastest counts (default: 30)"
    )
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    cv2.setNumThreads(1)
    print(machine.describe())
    plain, merging, published = (
        CornerNetCodec.of(CornerNetConfig(tag_distance=1e9, **settings), CLASSES, SIDE, SIDE)
        for settings in ({}, {"merge_exponent": 10}, {"merge_exponent": 10, "published": True})
    )
    maps = random_maps()
    triplet = TripletCodec(plain)
    found, confirmable = plain.decode(maps, DETECTIONS), triplet.decode(maps, DETECTIONS)
    print(f"{len(found)} candidates of {len(np.unique(found.labels))} classes\n")
    parts: dict[str, Callable[[], object]] = {
        "decode": lambda: plain.decode(maps, DETECTIONS),
        "  peaks of both heatmaps": lambda: [peaks(maps[f"{c}_heatmap"], plain.top_k) for c in CORNERS],
        "soft-NMS": lambda: plain.select([(1.0, found)], (SIDE, SIDE), True, DETECTIONS),
        "soft-NMS with merging": lambda: merging.select([(1.0, found)], (SIDE, SIDE), True, DETECTIONS),
        "  the same as published": lambda: published.select([(1.0, found)], (SIDE, SIDE), True, DETECTIONS),
        "triplets: decode": lambda: triplet.decode(maps, DETECTIONS),
        "  centres and soft-NMS": lambda: triplet.select(
            [(1.0, confirmable)], (SIDE, SIDE), True, DETECTIONS
        ),
    }
    best = dict.fromkeys(parts, np.inf)
    for _ in range(args.repeats):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    for name, milliseconds in best.items():
        print(f"{name:<26} {milliseconds:7.2f} ms")
    total = best["decode"] + best["soft-NMS"]
    print(f"decode + soft-NMS = {total:.2f} ms (bound {BOUND:g})")
    return 0 if total <= BOUND else 1


def random_maps() -> Maps:
    """Maps of noise with many peaks. The three kinds of keypoints are in different parts of the map."""
    rng = np.random.default_rng(0)
    cells = -(-SIDE // 4)
    maps: Maps = {}
    halves = slice(0, cells // 2), slice(cells // 2, cells), slice(cells // 4, 3 * cells // 4)
    for corner, rows in zip(KEYPOINTS, halves, strict=True):
        heatmap = rng.random((CLASSES, cells, cells), np.float32) * 0.1
        heatmap[:8, rows, rows] += 0.8
        maps[f"{corner}_heatmap"] = heatmap
        maps[f"{corner}_tag"] = rng.random((1, cells, cells), np.float32)
        maps[f"{corner}_offset"] = rng.random((2, cells, cells), np.float32)
    return maps


if __name__ == "__main__":
    raise SystemExit(main())
