# SPDX-License-Identifier: Apache-2.0
"""Export for deployment: python src/save_nnp.py ctdet --checkpoint runs/x/checkpoints/best [--format onnx].

Before the program ends, the file is loaded again and must give the same maps.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointdet.config import flags
from pointdet.errors import PointDetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pointdet.inference.exported import ExportedNetwork
    from pointdet.inference.restore import Model

CALIBRATION_IMAGES = 100  # more move the ranges no farther
TOLERANCE = 1e-4  # of the largest value, and of 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Save a network for use without its checkpoint.")
    flags.add_model_flags(parser)
    parser.add_argument("--format", choices=("nnp", "onnx"), default="nnp", help="[nnp]")
    parser.add_argument(
        "--output", type=Path, help="the file to write [ARCH_LAYERS.nnp or .onnx in --save_dir]"
    )
    parser.add_argument("--input_h", type=int, help="height of the input [the config's]")
    parser.add_argument("--input_w", type=int, help="width of the input [the config's]")
    parser.add_argument(
        "--contents",
        choices=("network", "maps", "pipeline"),
        default="maps",
        help="network: from the normalised image to maps; maps (default): from a BGR uint8 image; pipeline: so, and of "
        "heatmaps their peaks alone are left",
    )
    parser.add_argument("--batch_size", type=int, help="of an .nnp file [1]; an .onnx file takes any")
    parser.add_argument(
        "--precision", choices=("float", "half", "int8"), default="float", help="of an .onnx file [float]"
    )
    parser.add_argument(
        "--calibrate", type=Path, metavar="FOLDER", help="images of the kind to be detected in, for int8"
    )
    return parser.parse_args()


def main() -> int:
    args = parse()
    check(args)
    import numpy as np

    from pointdet.inference.exported import load
    from pointdet.inference.from_flags import restore_model, start_runtime

    model = restore_model(args, start_runtime(args), args.checkpoint)
    arch, layers = model.config.model.arch, model.config.model.num_layers
    path = args.output or args.save_dir / f"{arch}_{layers}.{args.format}"
    if path.suffix != f".{args.format}":
        raise PointDetError(f"--output {path} must end in .{args.format}, as --format says")
    (write_nnp if args.format == "nnp" else write_onnx)(args, model, path)

    found: ExportedNetwork = load(path)
    shape = (args.batch_size or 1, model.config.input.height, model.config.input.width, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    maps = found(image)
    print(f"{path}: {args.contents}, {args.precision}, image {shape} uint8 BGR -> {described(maps)}")
    expected = model.network()(image)
    if args.contents == "pipeline":  # peaks are the maps where they are any
        expected |= {n: np.where(maps[n] > 0, expected[n], 0) for n in found.card.heatmaps}
    difference = max(float(np.abs(expected[name] - maps[name]).max()) for name in expected)
    bound = TOLERANCE * max(1, *(float(np.abs(array).max()) for array in expected.values()))
    print(f"largest difference after loading it again: {difference:.1e}")
    if args.precision == "float" and not difference <= bound:
        raise PointDetError(f"{path} gives other numbers than the network it was made from; do not use it")
    return 0


def check(args: argparse.Namespace) -> None:
    """PointDetError for flags that do not go together."""
    if args.format == "onnx" and args.batch_size is not None:
        raise PointDetError("--batch_size is for --format nnp; an .onnx file takes any batch")
    if args.batch_size is not None and args.batch_size < 1:
        raise PointDetError("--batch_size must be at least 1")
    if args.format == "nnp" and args.precision != "float":
        raise PointDetError(f"--precision {args.precision} is for --format onnx; add it")
    if (args.precision == "int8") != (args.calibrate is not None):
        raise PointDetError("--precision int8 and --calibrate FOLDER go together; give both or neither")


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
    """What the network is fed when it looks at the first images of a folder."""
    from pointdet.export.graph import card
    from pointdet.inference.predictor import Predictor
    from pointdet.inference.sources import open_source

    predictor, told = Predictor.of(model), card(model, contents)
    for frame in islice(open_source(str(folder)).frames(), CALIBRATION_IMAGES):
        for _, window in predictor.prepare(frame.image).windows:
            yield told.fed(window[None])


def described(maps: dict[str, npt.NDArray[np.float32]]) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in maps.items())


if __name__ == "__main__":
    from pointdet.runtime import door

    door(main)
