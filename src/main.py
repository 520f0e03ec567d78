# SPDX-License-Identifier: Apache-2.0
"""Train a detector: the same as ``pointdet train``."""

from pointdet.programs.run import run_program
from pointdet.programs.train import main

if __name__ == "__main__":
    run_program(main)
