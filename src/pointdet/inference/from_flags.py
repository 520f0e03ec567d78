# SPDX-License-Identifier: Apache-2.0
"""The flags of a program -> its runtime and the detector that they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path

from pointdet import runtime as runtimes
from pointdet.config import flags
from pointdet.errors import PointDetError
from pointdet.inference import engine as engines
from pointdet.inference.exported import threads
from pointdet.inference.restore import Model, restore
from pointdet.runtime import Runtime


def start_runtime(args: argparse.Namespace) -> Runtime:
    """The device that --extension_module and --gpus name; rank 0 prints it."""
    runtime = runtimes.start(*flags.device(args), flags.cpu_kernels(args))
    if runtime.ranks.rank == 0:
        print(runtime.describe(), flush=True)
    return runtime


def restore_model(args: argparse.Namespace, runtime: Runtime, checkpoint: Path | None) -> Model:
    """The detector of a checkpoint folder, an exported network or, described by the flags, an .h5 file; overrides apply.

    Errors: PointDetError, also where a flag and the checkpoint disagree.
    """
    if checkpoint is None:
        raise PointDetError(
            "no checkpoint is given; add --checkpoint with a checkpoint folder or an .h5, .onnx or .nnp file"
        )
    engine = engines.of(checkpoint, getattr(args, "engine", None))
    if engine == "onnxruntime" and flags.names_gpu(args):
        raise PointDetError("ONNX Runtime runs on the CPU here; leave --gpus and --extension_module out")
    config = flags.config_of(args, checkpoint)
    model = restore(checkpoint, runtime, config, flags.overrides(args), args.swap_heads)
    flags.check_agreement(args, model.config, checkpoint)
    if engine == "onnxruntime" and runtime.ranks.rank == 0:
        print(f"the network runs in ONNX Runtime, {threads()} thread(s)", flush=True)
    return engines.on_engine(model, engine)
