# SPDX-License-Identifier: Apache-2.0
"""Import published weights, or export a checkpoint for the PyTorch code: the same as ``pointdet convert``."""

from pointdet.programs.convert import main
from pointdet.programs.run import run_program

if __name__ == "__main__":
    run_program(main)
