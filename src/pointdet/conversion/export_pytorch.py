# SPDX-License-Identifier: Apache-2.0
"""Export the parameters of a checkpoint with the keys of the official PyTorch code."""

from __future__ import annotations

from pathlib import Path

from pointdet.arrays import Arrays
from pointdet.conversion.notes import Notes
from pointdet.errors import PointDetError
from pointdet.weights import checkpoint, fit, h5_file, kind, plain_file
from pointdet.weights.naming.catalogue import official, to_published


def export_pytorch(folder: Path, path: Path) -> Arrays:
    """Write the parameters of the checkpoint `folder` to `path` (.safetensors or .npz), and return them.

    Kernels are in NCHW, for images of three channels. Parameters that the official network has but does not
    use are not written: batch counters, DLA's classifier and two of its projections. The metadata of the file
    contain the configuration and the class names, which the import reads back. Errors: PointDetError if there is
    no checkpoint, or if the file exists or cannot be written.
    """
    if path.exists():
        raise PointDetError(f"{path} exists; give another name or remove it")
    kind.check(folder, "checkpoint")
    state = checkpoint.read_state(folder, checkpoint.MODEL)
    config = checkpoint.config(folder, state)
    arrays = fit.converted(h5_file.read(folder / state["weights"]), channel_last=False)
    arrays = fit.with_input_channels(arrays, 3, channel_last=False)
    theirs = to_published(arrays, official(config.model, config.detector.name))
    if len(theirs) < len(arrays):
        raise PointDetError(
            f"{folder} has {len(arrays) - len(theirs)} parameters without a published name; "
            "use its parameters.h5, which has all of them"
        )
    plain_file.write(path, theirs, Notes(config, tuple(state["class_names"])).metadata())
    return theirs
