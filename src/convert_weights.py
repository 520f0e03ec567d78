# SPDX-License-Identifier: Apache-2.0
"""Parameter files in another layout: python src/convert_weights.py X.h5 Y.h5 --layout nhwc --input_channels 4.

Training, testing and export convert what they load by themselves; this is for files that others shall read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pointdet.errors import PointDetError

STATISTICS = ("mean", "var")  # the leaves of a path that are not learnt


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Convert an NNabla parameter file between NCHW and NHWC.")
    parser.add_argument("source", type=Path, help="the .h5 file to read")
    parser.add_argument("output", type=Path, help="the .h5 file to write; it must not exist")
    parser.add_argument("--layout", choices=("nchw", "nhwc"), help="[that of the source]")
    parser.add_argument(
        "--input_channels",
        type=int,
        choices=(3, 4),
        help="of the first convolution, a fourth one is for an image channel of zeros [those of the source]",
    )
    return parser.parse_args()


def main() -> int:
    args = parse()
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
