# SPDX-License-Identifier: Apache-2.0
"""The console command ``pointdet COMMAND ...``.

The loader's worker processes import this module too, so it imports only the program that is run.
"""

from __future__ import annotations

import argparse
import importlib

import pointdet
from pointdet.programs.parser import Parser
from pointdet.programs.run import run_program

COMMANDS = {
    "train": "train a detector, on one device, or on several with mpirun",
    "test": "measure the average precision (AP) or the speed of a checkpoint",
    "demo": "detect objects in images, a video or a camera stream",
    "export": "save the network as an .nnp or .onnx file",
    "shapes": "draw a toy dataset",
    "convert": "import published weights, or export a checkpoint with the names of the PyTorch code",
}


def main() -> None:
    """Run the program named by the first argument, and exit with its status."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser = Parser(
        prog="pointdet",
        description="Object detection with keypoints on NNabla.",
        epilog=f"commands:\n{listed}\n\nRun pointdet COMMAND --help for the arguments of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.instead = {}  # the parser of the command checks its options
    parser.add_argument("--version", action="version", version=f"PointDet {pointdet.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="see the list below")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="arguments of the command"
    )
    args = parser.parse_args()
    program = importlib.import_module(f"pointdet.programs.{args.command}")
    run_program(lambda: program.main(args.arguments, f"pointdet {args.command}"))
