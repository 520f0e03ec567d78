# SPDX-License-Identifier: Apache-2.0
"""The cost of inference: milliseconds per stage, images per second, parameters, multiply-adds, memory."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pointdet.arrays import Image
from pointdet.data.images import ImageFault, read_image
from pointdet.errors import PointDetError
from pointdet.files import write_text
from pointdet.inference.stopwatch import Stopwatch, timed
from pointdet.structures import Record

if TYPE_CHECKING:
    from pointdet.inference.predictor import Predictor
    from pointdet.model.restore import Model

REPEATS = 3
STAGES = ("read", "pre-process", "network", "decode", "NMS", "other")


@dataclass(frozen=True)
class Cost:
    """The cost of inference per image. `benchmark.json` has the same fields."""

    device: str
    images: int
    batch_size: int
    input_sizes: list[tuple[int, int]]  # the different (height, width) of the network's inputs, sorted
    milliseconds: dict[str, float]  # per image, for each of STAGES
    images_per_second: float  # with the stages one after the other; the programs overlap them
    parameters: int  # trainable ones
    gmac: float  # multiply-adds of all convolutions per image, in 10^9
    gflop: float  # 2 * gmac
    peak_memory_mb: float  # peak resident memory of the process, in 10^6 bytes


def measure_cost(predictor: Predictor, model: Model, records: Sequence[Record], device: str) -> Cost:
    """Run the predictor on all images 1 + REPEATS times, and measure each stage.

    The time of a stage is the shortest of all runs but the first.

    Args:
        predictor: the predictor of `model`, on any engine.
        device: the description of the device for the report.
    Errors: PointDetError for an image that cannot be read.
    """
    batch_size, count = predictor.test.batch_size, len(records)
    _, sizes = _detect(predictor, records)  # warm-up: builds graphs, allocates memory, fills the file cache
    runs = [_detect(predictor, records)[0] for _ in range(REPEATS)]
    seconds = {stage: min(run[stage] for run in runs) for stage in STAGES}
    peak = _peak_memory()
    passes = 2 if predictor.test.flip else 1
    # Counted before the parameters: a model from an exported file has none until its graph is built.
    total = passes * sum(_multiply_adds(model, *size) * inputs for size, inputs in sizes.items())
    return Cost(
        device=device,
        images=count,
        batch_size=batch_size,
        input_sizes=sorted(sizes),
        milliseconds={stage: 1e3 * seconds[stage] / count for stage in STAGES},
        images_per_second=count / sum(seconds.values()),
        parameters=sum(v.size for v in model.detector.parameters(trainable_only=True).values()),
        gmac=total / count / 1e9,
        gflop=2 * total / count / 1e9,
        peak_memory_mb=peak,
    )


def table(cost: Cost) -> str:
    """The cost as text for the terminal."""
    first, others = cost.input_sizes[0], len(cost.input_sizes) - 1
    inputs = f"{first[0]} x {first[1]}" + f" and {others} more" * bool(others)
    lines = [f"{cost.images} images, batches of {cost.batch_size}, input {inputs}, {cost.device}", ""]
    whole = sum(cost.milliseconds.values())
    lines += [f"{stage:<12}{ms:9.2f} ms {ms / whole:6.1%}" for stage, ms in cost.milliseconds.items()]
    lines += [f"{'total':<12}{whole:9.2f} ms, {cost.images_per_second:.1f} images/s", ""]
    arithmetic = f"{cost.gmac:.1f} GMAC = {cost.gflop:.1f} GFLOP per image"
    memory = f"peak memory {cost.peak_memory_mb:.0f} MB"
    lines.append(f"{cost.parameters / 1e6:.1f} million parameters, {arithmetic}, {memory}")
    return "\n".join(lines)


def write_cost(path: Path, cost: Cost) -> None:
    """Write `benchmark.json`."""
    write_text(path, json.dumps(asdict(cost), indent=2) + "\n")


def _detect(
    predictor: Predictor, records: Sequence[Record]
) -> tuple[dict[str, float], Counter[tuple[int, int]]]:
    """Detect in all images. Returns: seconds by stage, and the number of inputs of each (height, width)."""
    stopwatch, sizes = Stopwatch(), Counter[tuple[int, int]]()
    predictor, step = timed(predictor, stopwatch), predictor.test.batch_size
    start = time.perf_counter()
    for first in range(0, len(records), step):
        prepared = []
        for record in records[first : first + step]:
            with stopwatch("read"):
                pixels = _read(record)
            with stopwatch("pre-process"):
                prepared.append(predictor.prepare(pixels))
        predictor.detect(prepared)
        windows = [window for image in prepared for _, window in image.windows]
        sizes.update((window.shape[0], window.shape[1]) for window in windows)
    whole = time.perf_counter() - start
    return stopwatch.seconds | {"other": whole - sum(stopwatch.seconds.values())}, sizes


def _read(record: Record) -> Image:
    try:
        return read_image(record.image_path, record.height, record.width)
    except ImageFault as fault:
        raise PointDetError(f"{fault}; a benchmark needs images that can be read") from None


def _multiply_adds(model: Model, height: int, width: int) -> int:
    """Multiply-adds of the network for one input, counted in NNabla's graph for every engine."""
    from pointdet.model.network import build_graph
    from pointdet.ops.arithmetic import multiply_adds

    shape = (1, height, width)
    graph = build_graph(model.detector, model.runtime, half=False, shape=shape, exportable=True)
    return multiply_adds(graph.outputs.values())


def _peak_memory() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
