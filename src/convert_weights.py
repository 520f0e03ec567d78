# SPDX-License-Identifier: Apache-2.0
"""Parameters of other systems and ours; what the output is called says which way.

python src/convert_weights.py ctdet_coco_dla_2x.pth FOLDER          a published file -> a checkpoint
python src/convert_weights.py CHECKPOINT model.safetensors          a checkpoint -> the official PyTorch keys (or .npz)
python src/convert_weights.py X.h5 Y.h5 --layout nhwc --input_channels 4    NNabla's parameter file in another layout
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pointdet.errors import PointDetError

STATISTICS = ("mean", "var")  # the leaves of a path that are not learnt


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", type=Path, help="published file (.pth .pkl .t7 .h5 .safetensors .npz), or checkpoint folder"
    )
    parser.add_argument(
        "output", type=Path, help="checkpoint folder, .safetensors, .npz or .h5; it must not exist"
    )
    published = parser.add_argument_group("published file -> checkpoint")
    published.add_argument(
        "--classes", metavar="coco|voc|FILE", help="class names, where the file has neither 80 nor 20"
    )
    published.add_argument("--partial", action="store_true", help="load what fits, draw the rest anew")
    published.add_argument(
        "--swap_heads",
        choices=("ask", "yes", "no"),
        default="ask",
        help="exchange size and offset head of an .h5 file from before February 2023",
    )
    published.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of its configuration"
    )
    layout = parser.add_argument_group(".h5 -> .h5")
    layout.add_argument("--layout", choices=("nchw", "nhwc"), help="[that of the source]")
    layout.add_argument(
        "--input_channels",
        type=int,
        choices=(3, 4),
        help="of the first convolution, a fourth one is for an image channel of zeros [those of the source]",
    )
    return parser.parse_args()


def main() -> int:
    args = parse()
    if args.output.suffix == ".h5":
        return change_layout(args)
    if args.layout or args.input_channels:
        raise PointDetError(
            f"--layout and --input_channels are for parameter files; give {args.output} the suffix .h5"
        )
    if args.output.suffix in (".safetensors", ".npz"):
        from pointdet.conversion.release import release

        arrays = release(args.source, args.output)
        print(f"{args.output}: {len(arrays)} parameters")
        return 0
    from pointdet.conversion.adopt import adopt

    adopted = adopt(args.source, args.classes, args.swap_heads, args.set)
    print(adopted.describe(), flush=True)
    adopted.save(args.output, args.partial)
    print(f"{args.output}: checkpoint of {adopted.config.detector.name}, for --checkpoint {args.output}")
    return 0


def change_layout(args: argparse.Namespace) -> int:
    """A parameter file in another layout."""
    from pointdet.weights import fit, h5_file

    if args.output.exists():
        raise PointDetError(f"{args.output} exists; give another name or remove it")
    arrays = h5_file.read(args.source)
    was_last = fit.is_channel_last(arrays)
    is_last = was_last if args.layout is None else args.layout == "nhwc"
    arrays = fit.converted(arrays, is_last)
    if args.input_channels:
        arrays = fit.with_input_channels(arrays, args.input_channels, is_last)
    learnt = {name: name.split("/")[-1] not in STATISTICS for name in arrays}
    writing = args.output.with_name(f".{args.output.name}.writing")
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        h5_file.write(writing, {name: (array, learnt[name]) for name, array in arrays.items()})
        writing.rename(args.output)
    except OSError as error:
        writing.unlink(missing_ok=True)
        raise PointDetError(f"cannot write {args.output} ({error.strerror}); choose another place") from None
    names = {True: "NHWC", False: "NCHW"}
    print(f"{args.output}: {len(arrays)} parameters, {names[was_last]} -> {names[is_last]}")
    return 0


if __name__ == "__main__":
    from pointdet.runtime import door

    door(main)
