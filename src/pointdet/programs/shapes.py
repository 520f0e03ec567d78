# SPDX-License-Identifier: Apache-2.0
"""Draw a toy dataset in the COCO layout: pointdet shapes FOLDER, or python -m pointdet.data.shapes FOLDER."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from pointdet.data.shapes import draw_shapes
from pointdet.programs.parser import Parser

MOST_IMAGES = 1_000_000
SIZES = (16, 4096)  # a shape has at least 8 pixels and covers at most half of the image


def parse(arguments: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = Parser(
        prog=prog,
        description="Draw images of circles, squares, triangles and stars, with annotations in the COCO layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "folder", type=Path, help="output folder: receives train/, val/, test/ and annotations/"
    )
    count = _between(0, MOST_IMAGES)
    parser.add_argument("--train", type=count, default=400, metavar="N", help="training images")
    parser.add_argument("--val", type=count, default=100, metavar="N", help="validation images")
    parser.add_argument("--test", type=count, default=100, metavar="N", help="test images")
    parser.add_argument("--size", type=_between(*SIZES), default=256, help="height and width in pixels")
    parser.add_argument(
        "--seed", type=_between(0, 1 << 31), default=0, help="another seed draws other images"
    )
    return parser.parse_args(arguments)


def _between(least: int, most: int) -> Callable[[str], int]:
    """The type of a flag: a whole number in these bounds."""

    def whole_number(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value} is not from {least} to {most}")
        return value

    return whole_number


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return the exit status. `prog`: name of the command in its help text."""
    args = parse(arguments, prog)
    for number, (split, count) in enumerate((("train", args.train), ("val", args.val), ("test", args.test))):
        draw_shapes(args.folder, count, 3 * args.seed + number, args.size, args.size, split)
    return 0
