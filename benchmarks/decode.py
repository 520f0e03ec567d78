# SPDX-License-Identifier: Apache-2.0
"""How long do CornerNet and triplets take from the maps of an image to its detections, and which part of it?

python benchmarks/decode.py: 100 x 100 corners, 1000 candidates and 80 classes on maps of 128 x 128, on one core, minima
over repeats; the bound is 10 ms for CornerNet's decoding and Gaussian soft-NMS. Triplets have 100 centres in the same maps.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

# Before NumPy is imported.
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import cv2
import machine
import numpy as np

from pointdet.config.schema import CornerNet
from pointdet.detectors.cornernet.codec import CORNERS, CornerNetCodec
from pointdet.detectors.heatmaps import peaks
from pointdet.detectors.triplet.codec import KEYPOINTS, TripletCodec
from pointdet.structures import Maps

BOUND = 10.0
SIDE, CLASSES, DETECTIONS = 511, 80, 100


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    cv2.setNumThreads(1)
    print(machine.describe())
    plain, merging, published = (
        CornerNetCodec.of(CornerNet(tag_distance=1e9, **settings), CLASSES, SIDE, SIDE)
        for settings in ({}, {"merge_exponent": 10}, {"merge_exponent": 10, "published": True})
    )
    maps = draw_maps()
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


def draw_maps() -> Maps:
    """Noise, as a young network gives it: peaks everywhere. Top left corners are in the first half of the image."""
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
