# SPDX-License-Identifier: Apache-2.0
"""Save a network as an .nnp or .onnx file: the same as ``pointdet export``."""

from pointdet.programs.export import main
from pointdet.programs.run import run_program

if __name__ == "__main__":
    run_program(main)
