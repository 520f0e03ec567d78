# SPDX-License-Identifier: Apache-2.0
"""Detect in images, a video or what a camera sees: python src/demo.py ctdet --checkpoint C --demo X.

Imports that reach NNabla stand inside the functions: a loader's worker processes import the main file again.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pointdet.config import flags
from pointdet.drawing import contact_sheet, draw_detections, draw_heatmap
from pointdet.errors import PointDetError
from pointdet.inference.pipeline import ahead, mapped
from pointdet.inference.predictor import Predictor, Prepared
from pointdet.inference.sinks import Sink, add_sound
from pointdet.inference.sources import Frame, Source, open_source
from pointdet.inference.stopwatch import Stopwatch, timed
from pointdet.structures import Detections, Maps

Image = npt.NDArray[np.uint8]
Item = TypeVar("Item")

AHEAD = 2  # batches that are made, or kept, while the network works
SECONDS_BETWEEN_LINES = 10


class Seen(NamedTuple):
    """A frame and what the network says of it."""

    frame: Frame
    found: Detections
    scales: list[tuple[Image, Maps]]  # with --debug 2


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Detect in an image, a folder of images, a video or a camera."
    )
    flags.add_model_flags(parser)
    flags.add_test_flags(parser)
    parser.add_argument(
        "--demo", required=True, metavar="SOURCE", help="path of an image, folder or video; camera:N; webcam"
    )
    parser.add_argument(
        "--debug",
        type=int,
        choices=(0, 1, 2),
        default=1,
        help="0: detections.jsonl only; 1 (default): drawn pictures too; 2: heatmaps too",
    )
    return parser.parse_args()


def main() -> int:
    args = parse()
    source, path = open_source(args.demo), Path(args.demo)  # what is wrong here is told before all else
    if path.exists() and args.save_dir.resolve() in (path.resolve(), path.resolve().parent):
        raise PointDetError(f"the pictures themselves lie in {args.save_dir}; choose another --save_dir")

    from pointdet.inference.from_flags import restore_model, start_runtime

    runtime = start_runtime(args)
    if runtime.ranks.size > 1:
        raise PointDetError("the demo is the work of one process; start it without mpirun")
    model = restore_model(args, runtime, args.checkpoint)
    predictor, stopwatch = Predictor.of(model), Stopwatch()
    pictures, counts, start = 0, Counter[str](), time.perf_counter()
    with closing(Sink(source, args.save_dir)) as sink, stop_requests() as stopped:
        heatmaps = model.detector.head.heatmaps if args.debug >= 2 else ()
        looking = look(source, predictor, sink, args.debug >= 1, heatmaps, stopwatch, stopped)
        for found in shown(looking, source.count):
            pictures += 1
            counts.update(predictor.class_names[label] for label in found.labels)
    seconds = time.perf_counter() - start

    listed = ", ".join(f"{number} {name}" for name, number in counts.most_common()) or "nothing"
    print(f"pictures: {pictures}, found (score {predictor.test.vis_thresh:g} or more): {listed}")
    print(speed(pictures, seconds, stopwatch))
    if source.sound and args.debug >= 1 and not stopped.is_set():
        print(add_sound(sink.video(), source.sound))
    print(f"{'interrupted; ' * stopped.is_set()}written to {args.save_dir}")
    return 130 if stopped.is_set() and not source.endless else 0


def look(
    source: Source,
    predictor: Predictor,
    sink: Sink,
    draw: bool,
    heatmaps: Sequence[str],
    stopwatch: Stopwatch,
    stopped: threading.Event,
) -> Iterator[Detections]:
    """Detect in every frame, until `stopped`, and keep what is asked for; yields what was found and is kept.

    Reading, preparing, and drawing with writing have a thread each; the network runs in the caller's.
    """
    batch_size, threshold, names = predictor.test.batch_size, predictor.test.vis_thresh, predictor.class_names
    predictor = timed(predictor, stopwatch)

    def prepare(frames: Iterator[Frame]) -> Generator[tuple[Frame, Prepared], None, None]:
        for frame in frames:
            with stopwatch("pre-process"):
                prepared = predictor.prepare(frame.image)
            yield frame, prepared

    def detect(prepared: Iterator[tuple[Frame, Prepared]]) -> Iterator[Seen]:
        while not stopped.is_set() and (batch := list(islice(prepared, batch_size))):
            for (frame, _), found in zip(batch, predictor.detect([p for _, p in batch]), strict=True):
                scales = predictor.maps(frame.image) if heatmaps else []
                yield Seen(frame, found[found.scores >= threshold], scales)

    def keep(seen: Seen) -> Detections:
        frame, found, scales = seen
        pictures = {}
        with stopwatch("draw"):
            if draw:
                pictures[""] = draw_detections(frame.image, found, names, threshold)
            if heatmaps:
                pictures["_heatmap"] = draw_heatmaps(scales, heatmaps)
        with stopwatch("write"):
            for kind, picture in pictures.items():
                sink.write(frame, picture, kind)
            sink.tell(frame, found, names)
        return found

    room = AHEAD * batch_size
    with (
        closing(ahead(stopwatch.each("read", source.frames()), room)) as frames,
        closing(ahead(prepare(frames), room)) as prepared,
        closing(mapped(keep, detect(prepared), 1, room)) as kept,
    ):
        yield from kept


def draw_heatmaps(scales: Sequence[tuple[Image, Maps]], names: Sequence[str]) -> Image:
    """All heatmaps of a picture: a row for each scale."""
    return contact_sheet([draw_heatmap(image, maps[n]) for image, maps in scales for n in names], len(names))


def shown(items: Iterator[Item], count: int | None) -> Iterator[Item]:
    """The items, with a progress bar on a terminal, and elsewhere a line now and then."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=count, unit="picture")
        return
    start = told = time.perf_counter()
    for number, item in enumerate(items, 1):
        now = time.perf_counter()
        if now - told >= SECONDS_BETWEEN_LINES:
            of = f" of {count}" if count else ""
            print(f"{number}{of} pictures, {number / (now - start):.1f} per second", flush=True)
            told = now
        yield item


def speed(pictures: int, seconds: float, stopwatch: Stopwatch) -> str:
    """Two lines: what came out, and how long each stage, at the same time as the others, was at work."""
    spent = stopwatch.seconds
    stages = ", ".join(f"{name} {1000 * s / max(pictures, 1):.1f}" for name, s in spent.items())
    busy = spent.get("network", 0.0) / seconds
    return (
        f"{pictures / seconds:.1f} pictures per second, building the network included; it was busy {busy:.0%} of the "
        f"time\nmilliseconds per picture: {stages}"
    )


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Set by Ctrl-C and SIGTERM, so that all files are finished; whoever asks a second time ends the program at once."""
    stopped, numbers = threading.Event(), (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, stack: FrameType | None) -> None:
        stopped.set()
        restore()

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        restore()


if __name__ == "__main__":
    from pointdet.runtime import door

    door(main)
