# SPDX-License-Identifier: Apache-2.0
"""Measure the average precision or the speed of a detector: the same as ``pointdet test``."""

from pointdet.programs.run import run_program
from pointdet.programs.test import main

if __name__ == "__main__":
    run_program(main)
