# SPDX-License-Identifier: Apache-2.0
"""Start the runtime and restore the model that the flags of a program select."""

from __future__ import annotations

import argparse
from pathlib import Path

from pointdet import runtime as runtimes
from pointdet.errors import PointDetError
from pointdet.inference import engine as engines
from pointdet.model.exported import thread_count
from pointdet.model.restore import NETWORKS, Model, restore
from pointdet.programs import flags
from pointdet.runtime import Runtime
from pointdet.weights import kind


def start_runtime(args: argparse.Namespace, needs_gpu: bool = True) -> Runtime:
    """Start the device that --extension_module and --gpus select. Rank 0 prints it.

    needs_gpu: see `flags.device`. ONNX Runtime never needs one.
    Errors: PointDetError if the device does not work, or if --checkpoint cannot be run or does not fit --engine.
    """
    if args.checkpoint is not None:
        check_checkpoint(args)
    engine = engines.of(args.checkpoint or Path(), getattr(args, "engine", None))
    device = flags.device(args, needs_gpu and engine == "nnabla")
    settings = flags.runtime_settings(args)
    runtime = runtimes.start(*device, settings.cpu_kernels, settings.communication_timeout)
    if runtime.ranks.rank == 0:
        print(runtime.describe(), flush=True)
    return runtime


def check_checkpoint(args: argparse.Namespace) -> None:
    """Errors: PointDetError if --checkpoint is not a network, or an .h5 file whose settings are not given."""
    kind.check(args.checkpoint, *NETWORKS)
    folder = kind.checkpoint_of(args.checkpoint)
    if folder not in (None, args.checkpoint) and args.train_config is None and args.arch is None:
        raise PointDetError(
            f"{args.checkpoint} is a part of the checkpoint {folder}, which has its settings; give that folder"
        )


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
