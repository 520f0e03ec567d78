# SPDX-License-Identifier: Apache-2.0
"""Start the runtime and restore the model that the flags of a program select."""

from __future__ import annotations

import argparse
from pathlib import Path

from pointdet import runtime as runtimes
from pointdet.errors import PointDetError
from pointdet.inference import engine as engines
from pointdet.model.exported import thread_count
from pointdet.model.restore import Model, restore
from pointdet.programs import flags
from pointdet.runtime import Runtime


def start_runtime(args: argparse.Namespace, needs_gpu: bool = True) -> Runtime:
    """Start the device that --extension_module and --gpus select. Rank 0 prints it.

    needs_gpu: see `flags.device`. ONNX Runtime never needs one.
    Errors: PointDetError if the device does not work or --engine does not fit the checkpoint.
    """
    engine = engines.of(args.checkpoint or Path(), getattr(args, "engine", None))
    device = flags.device(args, needs_gpu and engine == "nnabla")
    settings = flags.runtime_settings(args)
    runtime = runtimes.start(*device, settings.cpu_kernels, settings.communication_timeout)
    if runtime.ranks.rank == 0:
        print(runtime.describe(), flush=True)
    return runtime


def restore_model(args: argparse.Namespace, runtime: Runtime, checkpoint: Path | None) -> Model:
    """Restore a checkpoint folder, an exported network or an .h5 file, with the overrides of the flags.

    The flags give the configuration of an .h5 file. Errors: PointDetError, also when a flag contradicts the
    configuration of the checkpoint.
    """
    if checkpoint is None:
        raise PointDetError(
            "no checkpoint is given; add --checkpoint with a checkpoint folder or an .h5, .onnx or .nnp file"
        )
    engine = engines.of(checkpoint, getattr(args, "engine", None))
    if engine == "onnxruntime" and flags.requests_gpu(args):
        raise PointDetError("ONNX Runtime runs on the CPU here; leave --gpus and --extension_module out")
    config = flags.config_of(args, checkpoint)
    model = restore(checkpoint, runtime, config, flags.overrides(args), args.swap_heads)
    flags.check_agreement(args, model.config, checkpoint)
    if engine == "onnxruntime" and runtime.ranks.rank == 0:
        print(f"the network runs in ONNX Runtime, {thread_count()} thread(s)", flush=True)
    return engines.on_engine(model, engine)
