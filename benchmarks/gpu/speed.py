# SPDX-License-Identifier: Apache-2.0
"""Images per second of whole training steps, and the time of the parts of a step.

python benchmarks/gpu/speed.py: shipped configurations at full size with random batches, 80 classes. A whole
step is the copy of the batch, forward, backward and update, without the loader. For the parts, the script
waits for the card after each part. Float is float32 without TF32, unless NNABLA_CUDA_ALLOW_TF32=1 is set.
The loss of the first step in float NCHW must be the one that torch_side.py prints.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict

import numpy as np
from batches import random_batch
from device import describe, free_memory, memory_in_use, start, synchronise
from models import IMAGES_ON_CPU, LARGE, large_model
from results import Results, argument_parser, chosen
from training_step import TrainingStep

from pointdet.arrays import Batch
from pointdet.programs.run import run_program
from pointdet.runtime import Runtime

PARTS = ("begin", "host copy", "to the card", "forward", "backward", "update")
REPEATS = 5  # of the parts; the median counts


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--kinds", default="float NCHW,half NHWC", help="by commas (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="measured steps (default: 10)")
    parser.add_argument("--images", type=int, help="of a step (default: fits 80 GB; 2 on a CPU)")
    args = parser.parse_args()
    results = Results("speed", args.results)
    runtime = start(args.device)
    print(describe(runtime))
    print(
        f"\n{'':<34}{'kind':<16}{'images':>7}{'images/s':>10}{'step, ms':>10}  parts, ms: {', '.join(PARTS)}"
    )
    for name, images in LARGE.items():
        for kind in args.kinds.split(","):
            if not chosen(name, args.only):
                continue
            count = args.images or (IMAGES_ON_CPU if runtime.on_cpu else images)
            try:
                measure(results, runtime, name, kind, count, args.steps)
            except Exception as error:  # noqa: BLE001  any C++ exception, such as too little memory
                results.failed(f"{name}, {kind}", error)
            free_memory(runtime)
    return results.finish()


def measure(results: Results, runtime: Runtime, name: str, kind: str, images: int, steps: int) -> None:
    """Print the row of one configuration and kind."""
    started = time.perf_counter()
    model = large_model(name, kind, runtime, images)
    step = TrainingStep(model)
    batch = random_batch(model, np.random.default_rng(0))
    step(batch)
    first_loss = step.terms()["total"]
    synchronise(runtime)
    built = time.perf_counter() - started
    for _ in range(2):
        step(batch)
    synchronise(runtime)
    started = time.perf_counter()
    for _ in range(steps):
        step(batch)
    synchronise(runtime)
    seconds = (time.perf_counter() - started) / steps
    parts = time_parts(step, batch, runtime)
    loss, memory = step.terms()["total"], memory_in_use(runtime)
    tf32 = kind.startswith("float") and os.environ.get("NNABLA_CUDA_ALLOW_TF32") == "1"
    label = kind + (" TF32" if tf32 else "")
    print(
        f"{name:<34}{label:<16}{images:7}{images / seconds:10.2f}{1000 * seconds:10.1f}  "
        + ", ".join(f"{parts[part]:.1f}" for part in PARTS)
        + f"\n{'':<34}first step {built:.1f} s, its loss {first_loss:.5f}; {memory} MiB on the card; "
        f"{step.skipped} skipped steps",
        flush=True,
    )
    results.row(
        what=name,
        kind=label,
        images=images,
        images_per_second=images / seconds,
        step_ms=1000 * seconds,
        parts_ms=parts,
        memory_mib=memory,
        first_step_s=built,
        first_loss=first_loss,
        loss=loss,
        skipped=step.skipped,
    )
    if not math.isfinite(loss):
        results.fault(f"{name}, {kind}: the loss is {loss}")


def time_parts(step: TrainingStep, batch: Batch, runtime: Runtime) -> dict[str, float]:
    """Milliseconds of each part of a step."""
    calls = (
        step.begin,
        lambda: step.feed(batch),
        step.send,
        step.forward_again,
        step.backward,
        lambda: step.update(1e-4),
    )
    times = defaultdict(list)
    for _ in range(REPEATS):
        for part, call in zip(PARTS, calls, strict=True):
            started = time.perf_counter()
            call()
            synchronise(runtime)
            times[part].append(1000 * (time.perf_counter() - started))
    return {part: float(np.median(values)) for part, values in times.items()}


if __name__ == "__main__":
    run_program(main)
