# SPDX-License-Identifier: Apache-2.0
"""Export a network: pointdet export --checkpoint RUN/checkpoints/best --format onnx.

The network is loaded again, and written only if its outputs are those of the network of the checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pointdet.errors import PointDetError
from pointdet.programs import flags
from pointdet.programs.parser import Parser
from pointdet.weights import kind

if TYPE_CHECKING:
    from pointdet.arrays import Image
    from pointdet.model.exported import ExportedNetwork
    from pointdet.model.restore import Model
    from pointdet.structures import Dataset

CALIBRATION_IMAGES = 100  # more images do not change the ranges
COMPARED_IMAGES = 16  # of them, the first ones


def parse(arguments: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = Parser(prog=prog, description="Save the network of a checkpoint as an .nnp or .onnx file.")
    flags.add_model_flags(parser, exported=False)
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
    parser.add_argument(
        "--force",
        action="store_true",
        help="write the file even if its outputs are not finite or differ from those of the checkpoint by more than "
        "the bound of the precision",
    )
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return the exit status. `prog`: name of the command in its help text."""
    args = parse(arguments, prog)
    check(args)
    from pointdet.export.existing import refuse_foreign
    from pointdet.programs.from_flags import restore_model, start_runtime

    model = restore_model(args, start_runtime(args, needs_gpu=False), args.checkpoint)
    arch, layers = model.config.model.arch, model.config.model.num_layers
    path = args.output or args.save_dir / f"{arch}_{layers}.{args.format}"
    if path.suffix != f".{args.format}":
        raise PointDetError(f"--output {path} must end in .{args.format}, or give another --format")
    refuse_foreign(path)
    (write_nnp if args.format == "nnp" else write_onnx)(args, model, path)
    return 0


def noise(args: argparse.Namespace, model: Model) -> Image:
    """A batch of random images, on which float and half precision are compared."""
    import numpy as np

    shape = (args.batch_size or 1, model.config.input.height, model.config.input.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def verify(
    args: argparse.Namespace, model: Model, path: Path, found: ExportedNetwork, images: list[Image]
) -> None:
    """Compare the exported network with that of the checkpoint, and print the differences.

    Errors: PointDetError if they are not finite or beyond the bound, without --force.
    """
    from pointdet.export.comparison import compare

    comparison = compare(found, model.network(), images, args.precision)
    outputs = ", ".join(f"{name} {output.shape}" for name, output in comparison.outputs.items())
    print(f"{path}: {args.contents}, {args.precision}, image {images[-1].shape} uint8 BGR -> {outputs}")
    print(comparison.table(), flush=True)
    if comparison.fault is None:
        return
    if not args.force:
        other = "" if args.precision == "float" else "; export it with --precision float"
        raise PointDetError(
            f"{path} is not written: {comparison.fault}{other}, or write it anyway with --force"
        )
    print(f"warning: {comparison.fault}; written because of --force")


def check(args: argparse.Namespace) -> None:
    """Raise PointDetError for flags that cannot be combined, and for a checkpoint that cannot be exported."""
    if args.checkpoint is not None:
        kind.check(args.checkpoint, "checkpoint", "h5")
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

    images = [noise(args, model)]
    write(
        *(model, path, args.batch_size or 1, args.contents),
        verify=lambda network: verify(args, model, path, network, images),
    )


def write_onnx(args: argparse.Namespace, model: Model, path: Path) -> None:
    from pointdet.export import onnx
    from pointdet.model.exported import OnnxNetwork

    measured = split_to_measure(args, model, path)
    made = onnx.convert(model, args.contents, half=args.precision == "half")
    images = [noise(args, model)]
    if args.precision == "int8":
        from pointdet.export.graph import metadata
        from pointdet.export.quantised import int8

        windows, described = list(calibration(args.calibrate, model)), metadata(model, args.contents)
        print(f"calibrated on {len(windows)} images of {args.calibrate}", flush=True)
        made = int8(made, (described.network_input(window) for window in windows))
        images = windows[:COMPARED_IMAGES]
    network = OnnxNetwork(path, made.SerializeToString())
    verify(args, model, path, network, images)
    onnx.write(made, path)
    if measured is not None:
        before, after = (average_precision(one, measured) for one in (model, replace(model, engine=network)))
        print(f"AP {100 * before:.2f} -> {100 * after:.2f} with {args.precision}, {len(measured)} images")


def calibration(folder: Path, model: Model) -> Iterator[Image]:
    """The inputs (1, H, W, 3) for the first CALIBRATION_IMAGES images of a folder."""
    from pointdet.inference.predictor import Predictor
    from pointdet.inference.sources import open_source

    predictor = Predictor.of(model)
    for frame in islice(open_source(str(folder)).frames(), CALIBRATION_IMAGES):
        for _, window in predictor.prepare(frame.image).windows:
            yield window[None]


def split_to_measure(args: argparse.Namespace, model: Model, path: Path) -> Dataset | None:
    """The images on which the AP of an int8 network is measured: `test` or `val`; None without --data_dir."""
    if args.precision != "int8" or args.data_dir is None:
        return None
    from pointdet.data.catalogue import read_dataset
    from pointdet.export.graph import metadata

    metadata(model, args.contents).configured([], path)  # peaks with a flip test are an error
    config = model.config.dataset
    return read_dataset(config, "test" if config.test else "val", model.class_names)


def average_precision(model: Model, dataset: Dataset) -> float:
    from pointdet.evaluation.metrics import measure
    from pointdet.evaluation.run import evaluate
    from pointdet.inference.predictor import Predictor

    found = evaluate(Predictor.of(model), dataset, model.runtime.ranks)
    return float(measure(dataset, found, model.config.dataset.metric)["AP"])
