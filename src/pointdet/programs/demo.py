# SPDX-License-Identifier: Apache-2.0
"""Detect objects in images, a video or a camera stream: pointdet demo --checkpoint CHECKPOINT --demo SOURCE.

The loader's worker processes import this module too, and must not import NNabla. So modules that need NNabla
are imported inside functions.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from pointdet.arrays import Image, Maps
from pointdet.drawing import contact_sheet, draw_detections, draw_heatmap
from pointdet.errors import PointDetError, visible
from pointdet.inference.pipeline import parallel_map, prefetch
from pointdet.inference.predictor import Predictor, Prepared
from pointdet.inference.sinks import Sink, add_sound
from pointdet.inference.sources import Frame, Source, open_source
from pointdet.inference.stopwatch import Stopwatch, timed
from pointdet.programs import flags
from pointdet.programs.parser import Parser
from pointdet.stop_request import StopRequest
from pointdet.structures import Detections

Item = TypeVar("Item")

BUFFERED_BATCHES = 2  # between two stages that run in parallel
SECONDS_BETWEEN_LINES = 10


class Result(NamedTuple):
    """A frame and its detections."""

    frame: Frame
    found: Detections
    scales: list[tuple[Image, Maps]]  # network input and maps per scale; empty without --debug 2


def parse(arguments: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = Parser(
        prog=prog, description="Detect objects in an image, a folder of images, a video or a camera stream."
    )
    flags.add_model_flags(parser)
    flags.add_test_flags(parser)
    parser.add_argument(
        "--demo",
        required=True,
        metavar="SOURCE",
        help="image, folder of images, video, camera:N, or webcam (camera:0)",
    )
    parser.add_argument(
        "--debug",
        type=int,
        choices=(0, 1, 2),
        default=1,
        help="0: detections.jsonl only; 1: also images with the boxes drawn; 2: also heatmaps (default: 1)",
    )
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return the exit status. `prog`: name of the command in its help text."""
    args = parse(arguments, prog)
    source, path = open_source(args.demo), Path(args.demo)  # errors of the source first
    if path.exists() and args.save_dir.resolve() in (path.resolve(), path.resolve().parent):
        raise PointDetError(f"the images of --demo are in {args.save_dir}; choose another --save_dir")

    from pointdet.programs.from_flags import restore_model, start_runtime

    runtime = start_runtime(args)
    if runtime.ranks.size > 1:
        raise PointDetError("the demo runs in a single process; start it without mpirun")
    model = restore_model(args, runtime, args.checkpoint)
    predictor, stopwatch = Predictor.of(model), Stopwatch()
    pictures, counts, start = 0, Counter[str](), time.perf_counter()
    with closing(Sink(source, args.save_dir)) as sink, StopRequest() as stop:
        heatmaps = model.detector.head.heatmaps if args.debug >= 2 else ()
        results = detect_and_write(source, predictor, sink, args.debug >= 1, heatmaps, stopwatch, stop)
        for found in with_progress(results, source.count):
            pictures += 1
            counts.update(predictor.class_names[label] for label in found.labels)
    seconds = time.perf_counter() - start

    listed = ", ".join(f"{number} {visible(name)}" for name, number in counts.most_common()) or "nothing"
    print(f"pictures: {pictures}, found (score {predictor.test.vis_thresh:g} or more): {listed}")
    print(speed(pictures, seconds, stopwatch))
    if source.sound and args.debug >= 1 and not stop.requested:
        print(visible(add_sound(sink.video(), source.sound)))
    print(f"{'interrupted; ' * stop.requested}written to {args.save_dir}")
    return 130 if stop.requested and not source.endless else 0


def detect_and_write(
    source: Source,
    predictor: Predictor,
    sink: Sink,
    draw: bool,
    heatmaps: Sequence[str],
    stopwatch: Stopwatch,
    stop: StopRequest,
) -> Iterator[Detections]:
    """Detect objects in every frame until `stop` is requested, write the outputs, and yield the detections.

    `draw`: write images with boxes. `heatmaps`: names of the heatmaps to write. Reading, pre-processing and
    writing run in a thread each, the network in the thread of the caller.
    """
    batch_size, threshold, names = predictor.test.batch_size, predictor.test.vis_thresh, predictor.class_names
    predictor = timed(predictor, stopwatch)

    def prepare(frames: Iterator[Frame]) -> Generator[tuple[Frame, Prepared], None, None]:
        for frame in frames:
            with stopwatch("pre-process"):
                prepared = predictor.prepare(frame.image)
            yield frame, prepared

    def detect(prepared: Iterator[tuple[Frame, Prepared]]) -> Iterator[Result]:
        while not stop.requested and (batch := list(islice(prepared, batch_size))):
            for (frame, _), found in zip(batch, predictor.detect([p for _, p in batch]), strict=True):
                scales = predictor.maps(frame.image) if heatmaps else []
                yield Result(frame, found[found.scores >= threshold], scales)

    def write(result: Result) -> Detections:
        frame, found, scales = result
        pictures = {}
        with stopwatch("draw"):
            if draw:
                pictures[""] = draw_detections(frame.image, found, names, threshold)
            if heatmaps:
                pictures["_heatmap"] = draw_heatmaps(scales, heatmaps)
        with stopwatch("write"):
            for kind, picture in pictures.items():
                sink.write(frame, picture, kind)
            sink.write_detections(frame, found, names)
        return found

    capacity = BUFFERED_BATCHES * batch_size
    with (
        closing(prefetch(stopwatch.each("read", source.frames()), capacity)) as frames,
        closing(prefetch(prepare(frames), capacity)) as prepared,
        closing(parallel_map(write, detect(prepared), 1, capacity)) as written,
    ):
        yield from written


def draw_heatmaps(scales: Sequence[tuple[Image, Maps]], names: Sequence[str]) -> Image:
    """One picture of all heatmaps of a frame: a row per scale, a column per heatmap."""
    return contact_sheet([draw_heatmap(image, maps[n]) for image, maps in scales for n in names], len(names))


def with_progress(items: Iterator[Item], count: int | None) -> Iterator[Item]:
    """Yield the items and show a progress bar on a terminal, or print a line every few seconds elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=count, unit="picture")
        return
    start = printed = time.perf_counter()
    for number, item in enumerate(items, 1):
        now = time.perf_counter()
        if now - printed >= SECONDS_BETWEEN_LINES:
            of = f" of {count}" if count else ""
            print(f"{number}{of} pictures, {number / (now - start):.1f} per second", flush=True)
            printed = now
        yield item


def speed(pictures: int, seconds: float, stopwatch: Stopwatch) -> str:
    """Two lines: pictures per second, and the time of each stage. The stages run in parallel."""
    spent = stopwatch.seconds
    stages = ", ".join(f"{name} {1000 * s / max(pictures, 1):.1f}" for name, s in spent.items())
    busy = spent.get("network", 0.0) / seconds
    return (
        f"{pictures / seconds:.1f} pictures per second, including the time to build the network; the network was "
        f"busy {busy:.0%} of the time\nmilliseconds per picture: {stages}"
    )
