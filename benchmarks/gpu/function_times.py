# SPDX-License-Identifier: Apache-2.0
"""The time of each function of a training step.

python benchmarks/gpu/function_times.py: one forward and one backward pass of shipped configurations at full
size. The script waits for the card after each function, so the sum is more than the time of a step, but the
shares are right. Functions are listed by type, and the slowest ones with the shape of their input and
kernel.
"""

from __future__ import annotations

import time
from collections import defaultdict

import nnabla as nn
import numpy as np
from batches import random_batch
from device import describe, free_memory, start, synchronise
from models import IMAGES_ON_CPU, LARGE, large_model
from results import Results, argument_parser, chosen
from training_step import TrainingStep

from pointdet.programs.run import run_program
from pointdet.runtime import Runtime

LONGEST = 12  # entries of a list

Key = tuple[str, str, str]  # pass, type of the function, shapes


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--kinds", default="half NHWC", help="by commas (default: %(default)s)")
    parser.add_argument("--images", type=int, help="of a step (default: fits 80 GB; 2 on a CPU)")
    args = parser.parse_args()
    results = Results("function times", args.results)
    runtime = start(args.device)
    print(describe(runtime))
    for name, images in LARGE.items():
        for kind in args.kinds.split(","):
            if not chosen(name, args.only):
                continue
            count = args.images or (IMAGES_ON_CPU if runtime.on_cpu else images)
            try:
                seconds = measure(runtime, name, kind, count)
            except Exception as error:  # noqa: BLE001  any C++ exception, such as too little memory
                results.failed(f"{name}, {kind}", error)
            else:
                report(results, name, kind, count, seconds)
            free_memory(runtime)
    return results.finish()


def measure(runtime: Runtime, name: str, kind: str, images: int) -> dict[Key, float]:
    """Seconds of the functions of one step."""
    model = large_model(name, kind, runtime, images)
    step = TrainingStep(model)
    batch = random_batch(model, np.random.default_rng(0))
    for _ in range(3):  # cuDNN chooses algorithms, and memory is allocated
        step(batch)
    seconds: dict[Key, float] = defaultdict(float)
    current = {"pass": "forward", "started": 0.0}

    def before(function: nn.function.Function) -> None:
        synchronise(runtime)
        current["started"] = time.perf_counter()

    def after(function: nn.function.Function) -> None:
        synchronise(runtime)
        spent = time.perf_counter() - current["started"]
        seconds[current["pass"], function.info.type_name, _shapes(function)] += spent

    hooks = {"function_pre_hook": before, "function_post_hook": after}
    step.begin()
    step.feed(batch)
    step.send()
    step.forward_again(**hooks)
    current["pass"] = "backward"
    step.backward_with_hooks(**hooks)
    return seconds


def _shapes(function: nn.function.Function) -> str:
    """The shape of the input and, for convolutions, of the kernel."""
    shapes = [function.inputs[0].shape]
    if "onvolution" in function.info.type_name:
        shapes.append(function.inputs[1].shape)
    return " * ".join("x".join(map(str, shape)) for shape in shapes)


def report(results: Results, name: str, kind: str, images: int, seconds: dict[Key, float]) -> None:
    """Print the sums by type and the slowest functions."""
    print(f"\n{name}, {kind}, {images} image(s), milliseconds")
    sums: dict[str, dict[str, float]] = {"forward": defaultdict(float), "backward": defaultdict(float)}
    for (direction, kind_of_function, _), spent in seconds.items():
        sums[direction][kind_of_function] += 1000 * spent
    for direction, by_type in sums.items():
        longest = sorted(by_type.items(), key=lambda item: -item[1])[:LONGEST]
        text = ", ".join(f"{function} {ms:.1f}" for function, ms in longest)
        print(f"  {direction:<9}{sum(by_type.values()):9.1f}: {text}")
    for (direction, function, shapes), spent in sorted(seconds.items(), key=lambda i: -i[1])[:LONGEST]:
        print(f"  {1000 * spent:9.2f}  {direction:<9}{function} {shapes}", flush=True)
    results.row(what=name, kind=kind, images=images, milliseconds={d: dict(t) for d, t in sums.items()})


if __name__ == "__main__":
    run_program(main)
