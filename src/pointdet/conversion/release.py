# SPDX-License-Identifier: Apache-2.0
"""A checkpoint -> its parameters under the keys of the official PyTorch code, in a file for other programs."""

from __future__ import annotations

import json
from pathlib import Path

from pointdet.config.load import validate
from pointdet.errors import PointDetError
from pointdet.weights import checkpoint, fit, h5_file, plain_file
from pointdet.weights.h5_file import Arrays
from pointdet.weights.naming.catalogue import official, to_published


def release(folder: Path, path: Path) -> Arrays:
    """Write the checkpoint `folder` as `path`, .safetensors or .npz; what was written.

    Kernels are NCHW and read three channels. What the official network has and does not use stays away: counters of
    batches, DLA's classifier and idle projections. safetensors also tell the classes and how the images are fed.
    Errors: PointDetError where there is no checkpoint or the file exists or cannot be written.
    """
    if path.exists():
        raise PointDetError(f"{path} exists; give another name or remove it")
    state = checkpoint.read_state(folder)
    config = validate(state["config"], f"{folder}/state.json")
    arrays = fit.converted(h5_file.read(folder / state["weights"]), channel_last=False)
    arrays = fit.with_input_channels(arrays, 3, channel_last=False)
    theirs = to_published(arrays, official(config.model, config.detector.name))
    if len(theirs) < len(arrays):
        raise PointDetError(
            f"{folder} has {len(arrays) - len(theirs)} parameters without a published name; "
            "its parameters.h5 holds all of them under ours"
        )
    notes = {
        "detector": config.detector.name,
        "backbone": f"{config.model.arch} {config.model.num_layers}",
        "class_names": json.dumps(state["class_names"]),
        "input": config.input.model_dump_json(),
    }
    plain_file.write(path, theirs, notes)
    return theirs
