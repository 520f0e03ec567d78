# SPDX-License-Identifier: Apache-2.0
"""Detect objects in images, a video or a camera stream: the same as ``pointdet demo``."""

from pointdet.programs.demo import main
from pointdet.programs.run import run_program

if __name__ == "__main__":
    run_program(main)
