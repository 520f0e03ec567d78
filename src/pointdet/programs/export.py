# SPDX-License-Identifier: Apache-2.0
"""Export a network: pointdet export --checkpoint RUN/checkpoints/best --format onnx.

The written file is loaded again, and its outputs are compared with those of the network.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointdet.arrays import Float32Array
from pointdet.errors import PointDetError
from pointdet.programs import flags
from pointdet.programs.parser import Parser

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pointdet.model.exported import ExportedNetwork
    from pointdet.model.restore import Model

CALIBRATION_IMAGES = 100  # more images do not change the ranges
TOLERANCE = 1e-4  # relative to the largest absolute value of the maps, which counts as at least 1


def parse(arguments: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = Parser(prog=prog, description="Save the network of a checkpoint as an .nnp or .onnx file.")
    flags.add_model_flags(parser)
    parser.add_argument("--format", choices=("nnp", "onnx"), default="nnp", help="file format (default: nnp)")
    parser.add_argument(
        "--output",
        type=Path,
        help="file to write (default: ARCH_LAYERS.nnp or ARCH_LAYERS.onnx in --save_dir)",
    )
    parser.add_argument("--input_h", type=int, help="height of the input in pixels (default: input.height)")
    parser.add_argument("--input_w", type=int, help="width of the input in pixels (default: input.width)")
    parser.add_argument(
        "--contents",
        choices=("network", "maps", "pipeline"),
        default="maps",
        help="network: normalised image to maps; maps: BGR uint8 image to maps; pipeline: like maps, but heatmaps "
        "are 0 except at their peaks (default: maps)",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        help="batch size of an .nnp file (default: 1); an .onnx file accepts any batch size",
    )
    parser.add_argument(
        "--precision",
        choices=("float", "half", "int8"),
        default="float",
        help="number type of an .onnx file (default: float)",
    )
    parser.add_argument(
        "--calibrate", type=Path, metavar="FOLDER", help="for int8: images like those of the application"
    )
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return the exit status. `prog`: name of the command in its help text."""
    args = parse(arguments, prog)
    check(args)
    import numpy as np

    from pointdet.model.exported import load
    from pointdet.programs.from_flags import restore_model, start_runtime

    model = restore_model(args, start_runtime(args, needs_gpu=False), args.checkpoint)
    arch, layers = model.config.model.arch, model.config.model.num_layers
    path = args.output or args.save_dir / f"{arch}_{layers}.{args.format}"
    if path.suffix != f".{args.format}":
        raise PointDetError(f"--output {path} must end in .{args.format}, or give another --format")
    (write_nnp if args.format == "nnp" else write_onnx)(args, model, path)

    found: ExportedNetwork = load(path)
    shape = (args.batch_size or 1, model.config.input.height, model.config.input.width, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    maps = found(image)
    print(f"{path}: {args.contents}, {args.precision}, image {shape} uint8 BGR -> {described(maps)}")
    expected = model.network()(image)
    if args.contents == "pipeline":  # compare the heatmaps at their peaks
        expected |= {n: np.where(maps[n] > 0, expected[n], 0) for n in found.metadata.heatmaps}
    difference = max(float(np.abs(expected[name] - maps[name]).max()) for name in expected)
    bound = TOLERANCE * max(1, *(float(np.abs(array).max()) for array in expected.values()))
    print(f"largest difference after loading it again: {difference:.1e}")
    if args.precision == "float" and not difference <= bound:
        raise PointDetError(f"{path} gives other outputs than the network of the checkpoint; do not use it")
    return 0


def check(args: argparse.Namespace) -> None:
    """Raise PointDetError for flags that cannot be combined."""
    if args.format == "onnx" and args.batch_size is not None:
        raise PointDetError("--batch_size is for --format nnp; an .onnx file takes any batch")
    if args.batch_size is not None and args.batch_size < 1:
        raise PointDetError("--batch_size must be at least 1")
    if args.format == "nnp" and args.precision != "float":
        raise PointDetError(f"--precision {args.precision} is for --format onnx; add it")
    if (args.precision == "int8") != (args.calibrate is not None):
        raise PointDetError(
            "--precision int8 needs --calibrate FOLDER, and only int8 uses it; give both or none"
        )


def write_nnp(args: argparse.Namespace, model: Model, path: Path) -> None:
    from pointdet.export.nnp import write

    write(model, path, args.batch_size or 1, args.contents)


def write_onnx(args: argparse.Namespace, model: Model, path: Path) -> None:
    from pointdet.export import onnx

    made = onnx.convert(model, args.contents, half=args.precision == "half")
    if args.precision == "int8":
        from pointdet.export.quantised import int8

        made = int8(made, calibration(args.calibrate, model, args.contents))
    onnx.write(made, path)


def calibration(folder: Path, model: Model, contents: Any) -> Iterator[npt.NDArray[np.generic]]:
    """The network inputs for the first CALIBRATION_IMAGES images of a folder."""
    from pointdet.export.graph import metadata
    from pointdet.inference.predictor import Predictor
    from pointdet.inference.sources import open_source

    predictor, described = Predictor.of(model), metadata(model, contents)
    for frame in islice(open_source(str(folder)).frames(), CALIBRATION_IMAGES):
        for _, window in predictor.prepare(frame.image).windows:
            yield described.network_input(window[None])


def described(maps: dict[str, Float32Array]) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in maps.items())
