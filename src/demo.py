# SPDX-License-Identifier: Apache-2.0
"""Detect in an image, a folder or a video: python src/demo.py ctdet --checkpoint C --demo X.

Imports that reach NNabla stand inside the functions: a loader's worker processes import the main file again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pointdet.config import flags
from pointdet.drawing import contact_sheet, draw_detections, draw_heatmap
from pointdet.errors import PointDetError
from pointdet.evaluation.report import write_text
from pointdet.inference.predictor import Predictor
from pointdet.inference.sources import Frame, Sink, describe, frames
from pointdet.structures import Maps

if TYPE_CHECKING:
    from pointdet.inference.restore import Model

Image = npt.NDArray[np.uint8]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Detect in an image, a folder of images or a video.")
    flags.add_model_flags(parser)
    flags.add_test_flags(parser)
    parser.add_argument("--demo", type=Path, required=True, metavar="PATH", help="image, folder or video")
    parser.add_argument(
        "--debug",
        type=int,
        choices=(0, 1, 2),
        default=1,
        help="0: detections.json only; 1 (default): drawn pictures too; 2: heatmaps too",
    )
    return parser.parse_args()


def main() -> int:
    args = parse()
    if args.save_dir.resolve() in (args.demo.resolve(), args.demo.resolve().parent):
        raise PointDetError(f"the pictures themselves lie in {args.save_dir}; choose another --save_dir")
    others = frames(args.demo)
    stopwatch = Stopwatch()
    with stopwatch("read"):
        first = next(others)  # a wrong path is told before the detector is built

    from pointdet.inference.from_flags import restore_model, start_runtime

    runtime = start_runtime(args)
    if runtime.ranks.size > 1:
        raise PointDetError("the demo is the work of one process; start it without mpirun")
    model = restore_model(args, runtime, args.checkpoint)
    with closing(Sink(args.demo, args.save_dir)) as sink:
        entries = look(model, first, others, sink, args.debug, stopwatch)
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    write_text(args.save_dir / "detections.json", f"[{lines}]\n")

    found = Counter(detection["class"] for entry in entries for detection in entry["detections"])
    counts = ", ".join(f"{number} {name}" for name, number in found.most_common()) or "nothing"
    print(f"pictures: {len(entries)}, found (score {model.config.test.vis_thresh:g} or more): {counts}")
    print(stopwatch.report(len(entries)))
    print(f"written to {args.save_dir}")
    return 0


def look(
    model: Model, first: Frame, others: Iterator[Frame], sink: Sink, debug: int, stopwatch: Stopwatch
) -> list[dict[str, Any]]:
    """Detect in every frame and keep the pictures that --debug asks for; what was found, ready for JSON."""
    predictor = Predictor.of(model)
    names, threshold = predictor.class_names, predictor.test.vis_thresh
    entries = []
    frame: Frame | None = first
    while frame is not None:
        with stopwatch("prepare"):
            prepared = predictor.prepare(frame.image)
        with stopwatch("network and decode"):
            found = predictor.detect([prepared])[0]
        found = found[found.scores >= threshold]
        entries.append(describe(frame.name, found, names))
        with stopwatch("draw and write"):
            if debug >= 1:
                sink.write(frame, draw_detections(frame.image, found, names, threshold))
            if debug >= 2:
                sheet = heatmaps(predictor.maps(frame.image), model.detector.head.heatmaps)
                sink.write(frame, sheet, "_heatmap")
        with stopwatch("read"):
            frame = next(others, None)
    return entries


def heatmaps(scales: Sequence[tuple[Image, Maps]], names: Sequence[str]) -> Image:
    """All heatmaps of a picture: a row for each scale."""
    return contact_sheet([draw_heatmap(image, maps[n]) for image, maps in scales for n in names], len(names))


class Stopwatch:
    """Seconds spent in each stage: ``with stopwatch("read"): ...``."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[stage] += time.perf_counter() - start

    def report(self, pictures: int) -> str:
        stages = ", ".join(f"{stage} {1000 * s / pictures:.1f}" for stage, s in self._seconds.items())
        return f"milliseconds per picture, building the network included: {stages}"


if __name__ == "__main__":
    from pointdet.runtime import door

    door(main)
