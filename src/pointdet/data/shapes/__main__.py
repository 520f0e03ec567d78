# SPDX-License-Identifier: Apache-2.0
"""Draw a toy dataset: the same as ``pointdet shapes``."""

from pointdet.programs.run import run_program
from pointdet.programs.shapes import main

if __name__ == "__main__":
    run_program(lambda: main(None, "python -m pointdet.data.shapes"))
