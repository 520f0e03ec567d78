# SPDX-License-Identifier: Apache-2.0
"""The speed of a network in NNabla and ONNX Runtime, and the time of pre-processing, decoding and drawing.

python benchmarks/engines.py: ResNet-18 CenterNet, 80 classes, 512 x 512, one image, two cores. The same
parameters run in NNabla and in ONNX Runtime: in float, half and int8, in float without the blocked layout of
convolutions, and in float with a fixed image size. The variants alternate. Times are the minimum of all
repeats. The bound for pre-processing a 640 x 480 image, decoding and drawing is 15 % of the time of the
network (ONNX Runtime, float).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

# NumPy reads these when it is imported.
THREADS = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "2"
os.environ |= {"OPENBLAS_NUM_THREADS": THREADS, "OMP_NUM_THREADS": THREADS}

import cv2
import machine
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from pointdet import runtime as runtimes
from pointdet.arrays import Image, Maps
from pointdet.config.schema import Config, DatasetConfig, InputConfig, ModelConfig
from pointdet.data.shapes import draw_picture
from pointdet.drawing import draw_detections
from pointdet.export.onnx import convert
from pointdet.export.quantised import int8
from pointdet.inference.predictor import Predictor
from pointdet.model.exported import OnnxNetwork
from pointdet.model.restore import Model
from pointdet.ops.cpu import onednn_library
from pointdet.training.initial_parameters import fresh

CLASSES, BOUND = 80, 0.15
CALIBRATION = 4  # images

Run = Callable[[npt.NDArray[np.uint8]], Maps]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="resnet", help="model.arch (default: resnet)")
    parser.add_argument("--num_layers", type=int, default=18, help="model.num_layers (default: 18)")
    parser.add_argument(
        "--size", type=int, default=512, help="input height and width, a multiple of 32 (default: 512)"
    )
    parser.add_argument("--width", type=float, default=1.0, help="channel factor, model.width (default: 1)")
    parser.add_argument("--threads", type=int, default=2, help="number of threads and of cores (default: 2)")
    parser.add_argument(
        "--repeats", type=int, default=10, help="repeats, of which the fastest counts (default: 10)"
    )
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    cv2.setNumThreads(args.threads)
    config = Config(
        dataset=DatasetConfig(dataset="benchmark", format="coco"),
        model=ModelConfig(arch=args.arch, num_layers=args.num_layers, width=args.width),
        input=InputConfig(height=args.size, width=args.size),
    )
    print(f"{machine.describe()}, ONNX Runtime {onnxruntime.__version__}")
    print(
        f"{args.arch}-{args.num_layers}, width {args.width:g}, {args.size} x {args.size}, {CLASSES} classes, 1 image, "
        f"{args.threads} thread(s)"
    )
    best_kernels = "onednn" if onednn_library.library_file() else "blas"
    model = fresh(config, tuple(map(str, range(CLASSES))), runtimes.start(cpu_kernels=best_kernels))
    pictures = [draw_picture(np.random.default_rng(seed), 480, 640)[0] for seed in range(CALIBRATION)]
    predictor = Predictor.of(model)
    inputs = [predictor.prepare(picture).windows[0][1][None] for picture in pictures]
    runs = variants(model, best_kernels, inputs)
    fastest = compare(runs, inputs[0], args.repeats)
    predictor.network = runs["onnxruntime"]
    added = around(predictor, pictures[0], args.repeats) / fastest["onnxruntime"]
    print(f"around / network = {added:.3f} (bound {BOUND:g})")
    return 0 if added <= BOUND else 1


def variants(model: Model, best_kernels: str, inputs: list[npt.NDArray[np.uint8]]) -> dict[str, Run]:
    """The networks to compare, by name."""
    single = convert(model)
    nnabla_kernels = replace(model, runtime=replace(model.runtime, cpu_kernels="nnabla"))
    plain = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # one level below the layout optimisations
    sides = dict(zip(("batch", "height", "width"), inputs[0].shape, strict=False))
    return {
        "nnabla": nnabla_kernels.network(),
        f"nnabla, {best_kernels}": model.network(),
        "onnxruntime": network(single),
        "  half": network(convert(model, half=True)),
        "  int8": network(int8(single, inputs)),
        "  plain layout": session(single, plain, {}),
        "  size known": session(single, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL, sides),
    }


def network(model: onnx.ModelProto) -> Run:
    return OnnxNetwork(Path("benchmark.onnx"), model.SerializeToString())


def session(model: onnx.ModelProto, level: onnxruntime.GraphOptimizationLevel, sides: dict[str, int]) -> Run:
    """The model in a session with other options than those of PointDet."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(THREADS)
    options.graph_optimization_level = level
    for name, size in sides.items():
        options.add_free_dimension_override_by_name(name, size)
    made = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in made.get_outputs()]
    return lambda images: dict(zip(names, made.run(names, {"image": images}), strict=True))


def compare(runs: dict[str, Run], image: npt.NDArray[np.uint8], repeats: int) -> dict[str, float]:
    """Seconds of each network. Prints them with the speed-up and the relative difference of the maps."""
    expected = runs["nnabla"](image)
    fastest = dict.fromkeys(runs, np.inf)
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run(image)
            fastest[name] = min(fastest[name], time.perf_counter() - start)
    print(f"\n{'network':<20} {'ms':>8} {'faster':>9} {'difference':>11}")
    for name, seconds in fastest.items():
        found = runs[name](image)
        difference = max(
            np.abs(found[n] - array).max() / np.abs(array).max() for n, array in expected.items()
        )
        print(f"{name:<20} {1e3 * seconds:8.1f} {fastest['nnabla'] / seconds:7.2f} x {difference:11.1e}")
    return fastest


def around(predictor: Predictor, picture: Image, repeats: int) -> float:
    """Seconds of one image without the network: pre-processing, decoding and drawing."""
    prepared = predictor.prepare(picture)
    maps = predictor.network(prepared.windows[0][1][None])
    before, predictor.network = predictor.network, lambda images: maps
    found = predictor.detect([prepared])[0]
    stages: dict[str, Callable[[], object]] = {
        "prepare": lambda: predictor.prepare(picture),
        "decode": lambda: predictor.detect([prepared]),
        "draw": lambda: draw_detections(picture, found, predictor.class_names, predictor.test.vis_thresh),
    }
    fastest = dict.fromkeys(stages, np.inf)
    for _ in range(repeats):
        for name, stage in stages.items():
            start = time.perf_counter()
            stage()
            fastest[name] = min(fastest[name], time.perf_counter() - start)
    predictor.network = before
    print("\n" + ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in fastest.items()))
    return sum(fastest.values())


if __name__ == "__main__":
    raise SystemExit(main())
