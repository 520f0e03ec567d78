# SPDX-License-Identifier: Apache-2.0
"""The initial parameters of a training: random, from a checkpoint, or of an ImageNet backbone."""

from __future__ import annotations

import logging
from pathlib import Path

import nnabla as nn

from pointdet.arrays import Arrays
from pointdet.available_memory import require
from pointdet.backbones.catalogue import imagenet_files
from pointdet.config.schema import Config
from pointdet.detectors import catalogue
from pointdet.errors import PointDetError
from pointdet.model.restore import Model
from pointdet.ops.layers import parameters_without_values
from pointdet.runtime import Runtime
from pointdet.weights import checkpoint as checkpoints
from pointdet.weights import h5_file, published, torch_file
from pointdet.weights.fit import fit
from pointdet.weights.imagenet import from_torch

COPIES = 4  # of the parameters, on the CPU: values, gradients, and two moments of Adam

logger = logging.getLogger("pointdet")


def fresh(config: Config, class_names: tuple[str, ...], runtime: Runtime) -> Model:
    """A detector with random parameters. They depend on train.seed and are the same on every rank.

    Errors: PointDetError if the network does not fit into the memory.
    """
    _require_memory(config, len(class_names), runtime)
    nn.seed(config.train.seed)
    detector = catalogue.build(config, len(class_names))
    detector.make_parameters(config.model.granularity)
    return Model(detector, config, class_names, runtime)


def _require_memory(config: Config, num_classes: int, runtime: Runtime) -> None:
    """Compare the size of all parameters with the memory, before they get values."""
    sketch = catalogue.build(config, num_classes)
    with parameters_without_values():
        sketch.make_parameters(config.model.granularity)
    values = sum(variable.size for variable in sketch.parameters().values())
    copies = COPIES if runtime.on_cpu else 1
    require(
        4 * values * copies, "training this network", "lower model.head_channels, feature_channels or width"
    )


def load_parameters(path: Path, model: Model) -> None:
    """Fine-tuning: copy the parameters that fit from a checkpoint folder or an .h5 file.

    The log reports which parameters are kept, skipped and new. Errors: PointDetError when no parameter fits.
    """
    source = path / checkpoints.read_state(path, ("weights",))["weights"] if path.is_dir() else path
    arrays = h5_file.read(source)
    if source == path and published.heads_look_swapped(arrays):
        logger.warning("%s: size and offset heads are exchanged, as in files before February 2023", source)
        arrays = published.with_swapped_heads(arrays)
    _load(arrays, source, model)


def _load(arrays: Arrays, source: Path, model: Model) -> None:
    report = fit(arrays, model.detector.parameters(), model.detector.channel_last)
    if not report.kept:
        raise PointDetError(f"nothing in {source} fits this network; check model.arch, num_layers and width")
    logger.info("%s: %s", source, report.describe())


def load_imagenet(model: Model) -> None:
    """Copy the ImageNet parameters of the backbone from a file in the folder model.pretrained_model_dir.

    The file is NNabla's, in NCHW or NHWC, or PyTorch's. The first convolution of a PyTorch file expects RGB;
    its channels are reordered to input.colour_order. Errors: PointDetError when the folder has no such file.
    """
    settings = model.config.model
    folder = Path(str(settings.pretrained_model_dir))
    patterns = imagenet_files(settings, model.detector.channel_last)
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    if not found:
        raise PointDetError(
            f"there is no {patterns[0]} or {patterns[-1]} in {folder}; put one there (see weights/README.md), or train "
            "from scratch with --set model.pretrained_model_dir=null"
        )
    path = found[0]
    if path.suffix == ".h5":
        load_parameters(path, model)
    else:
        _load(from_torch(torch_file.read(path), settings.arch, model.config.input.colour_order), path, model)
