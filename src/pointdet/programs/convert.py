# SPDX-License-Identifier: Apache-2.0
"""Convert published weights and checkpoints. The suffix of the output selects the conversion.

pointdet convert ctdet_coco_dla_2x.pth FOLDER      published file -> checkpoint
pointdet convert CHECKPOINT model.safetensors      checkpoint -> official PyTorch names (or .npz)
pointdet convert X.h5 Y.h5 --layout nhwc           NNabla parameter file -> other layout or input channels
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pointdet.errors import PointDetError, visible_lines
from pointdet.files import replacing
from pointdet.programs import flags
from pointdet.programs.parser import Parser

STATISTICS = ("mean", "var")  # last parts of parameter names that are not trained


def parse(arguments: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", type=Path, help="published file (.pth .pkl .t7 .h5 .safetensors .npz), or checkpoint folder"
    )
    parser.add_argument(
        "output", type=Path, help="checkpoint folder, .safetensors, .npz or .h5; it must not exist"
    )
    published = parser.add_argument_group("published file -> checkpoint")
    published.add_argument(
        "--classes",
        metavar="coco|voc|FILE",
        help="class names: coco, voc or a text file with one name per line (default: those that the file notes; "
        "without notes coco for 80 classes, voc for 20)",
    )
    published.add_argument(
        "--partial", action="store_true", help="load the parameters that fit, and initialise the others"
    )
    flags.add_swap_heads_flag(published)
    flags.add_set_flag(published)
    layout = parser.add_argument_group(".h5 -> .h5")
    layout.add_argument(
        "--layout", choices=("nchw", "nhwc"), help="layout of the output (default: that of the source)"
    )
    layout.add_argument(
        "--input_channels",
        type=int,
        choices=(3, 4),
        help="channels of the first convolution; the fourth is for an image channel of zeros "
        "(default: as in the source)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return the exit status. `prog`: name of the command in its help text."""
    args = parse(arguments, prog)
    if args.output.suffix == ".h5":
        return change_layout(args)
    if args.layout or args.input_channels:
        raise PointDetError(
            f"--layout and --input_channels are for parameter files; give {args.output} the suffix .h5"
        )
    if args.output.suffix in (".safetensors", ".npz"):
        from pointdet.conversion.export_pytorch import export_pytorch

        arrays = export_pytorch(args.source, args.output)
        print(f"{args.output}: {len(arrays)} parameters")
        return 0
    from pointdet.conversion.import_published import import_published

    published_weights = import_published(args.source, args.classes, args.swap_heads, args.set)
    print(visible_lines(published_weights.describe()), flush=True)
    published_weights.save(args.output, args.partial)
    print(
        f"{args.output}: checkpoint of {published_weights.config.detector.name}, for --checkpoint {args.output}"
    )
    return 0


def change_layout(args: argparse.Namespace) -> int:
    """Write an .h5 parameter file in another layout or with other input channels."""
    from pointdet.weights import fit, h5_file

    if args.output.exists():
        raise PointDetError(f"{args.output} exists; give another name or remove it")
    arrays = h5_file.read(args.source)
    was_last = fit.is_channel_last(arrays)
    is_last = was_last if args.layout is None else args.layout == "nhwc"
    arrays = fit.converted(arrays, is_last)
    if args.input_channels:
        arrays = fit.with_input_channels(arrays, args.input_channels, is_last)
    trainable = {name: name.split("/")[-1] not in STATISTICS for name in arrays}
    with replacing(args.output) as writing:
        h5_file.write(writing, {name: (array, trainable[name]) for name, array in arrays.items()})
    names = {True: "NHWC", False: "NCHW"}
    print(f"{args.output}: {len(arrays)} parameters, {names[was_last]} -> {names[is_last]}")
    return 0
