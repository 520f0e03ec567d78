# SPDX-License-Identifier: Apache-2.0
"""The initial parameters of a training: random, from a checkpoint, or of an ImageNet backbone."""

from __future__ import annotations

import logging
from pathlib import Path

import nnabla as nn

from pointdet.arrays import Arrays
from pointdet.available_memory import require
from pointdet.backbones.catalogue import imagenet_files
from pointdet.config.load import validate
from pointdet.config.schema import Config, InputConfig
from pointdet.detectors import catalogue
from pointdet.errors import PointDetError
from pointdet.model.restore import Model
from pointdet.ops.layers import parameters_without_values
from pointdet.runtime import Runtime
from pointdet.weights import checkpoint as checkpoints
from pointdet.weights import class_names as known_names
from pointdet.weights import h5_file, kind, published, torch_file, values
from pointdet.weights.class_rows import Classes
from pointdet.weights.fit import converted, fit, with_reversed_colours
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

    Rows of classes are copied by name; those of other classes keep their initial values. Another colour order is
    converted in the first convolution. The log reports which parameters are kept, skipped and new, and which
    classes start anew. Errors: PointDetError when no parameter fits.
    """
    kind.check(path, "checkpoint", "h5")
    folder = kind.checkpoint_of(path)
    if folder is None:
        arrays, names = _bare(path, model)
        _load(arrays, path, model, names)
        return
    state = checkpoints.read_state(folder, checkpoints.MODEL)
    source = folder / state["weights"] if path.is_dir() else path
    arrays = h5_file.read(source)
    config = validate(state["config"], f"{folder}/state.json")
    arrays = _with_colours(arrays, config.input, model, source)
    _load(arrays, source, model, tuple(state["class_names"]))


def _bare(path: Path, model: Model) -> tuple[Arrays, tuple[str, ...]]:
    """The arrays of a file without settings, and the class names that are assumed for it."""
    arrays = h5_file.read(path)
    if published.heads_look_swapped(arrays):
        logger.warning("%s: size and offset heads are exchanged, as in files before February 2023", path)
        arrays = published.with_swapped_heads(arrays)
    bias = next((array for name, array in arrays.items() if name.endswith(model.detector.class_bias)), None)
    count = len(bias) if bias is not None and bias.ndim == 1 else len(model.class_names)
    names = known_names.of_count(count)
    if names is not None:
        assumed = f"those of {'COCO' if names == known_names.COCO else 'VOC'}, by their number"
    elif count == len(model.class_names):
        assumed = "those of this run, in the same order"
    else:
        assumed = "others than those of this run"
    settings = model.config.input
    logger.warning(
        "%s has no settings. Assumed: its %d classes are %s; its input is as in this run, colour order %s, mean %s, "
        "std %s. A checkpoint folder has its settings.",
        *(path, count, assumed, settings.colour_order, list(settings.mean), list(settings.std)),
    )
    return arrays, names or (model.class_names if count == len(model.class_names) else ())


def _with_colours(arrays: Arrays, theirs: InputConfig, model: Model, source: Path) -> Arrays:
    """The arrays for the colour order of the run, with a warning if mean or std differ."""
    ours, step = model.config.input, 1
    if theirs.colour_order != ours.colour_order:
        logger.warning(
            "%s was trained on %s images, this run uses %s: the first convolution is converted",
            *(source, theirs.colour_order, ours.colour_order),
        )
        channel_last = model.detector.channel_last
        arrays, step = with_reversed_colours(converted(arrays, channel_last), channel_last), -1
    for name in ("mean", "std"):
        before, now = getattr(theirs, name)[::step], getattr(ours, name)
        if before != now:
            logger.warning(
                "%s was trained with another input.%s; for the same inputs as in its training, set input.%s=%s",
                *(source, name, name, list(before)),
            )
    return arrays


def _load(arrays: Arrays, source: Path, model: Model, names: tuple[str, ...] | None = None) -> None:
    """names: the classes of the file; None if it is a backbone without classes."""
    classes = None if names in (None, model.class_names) else Classes(names or (), model.class_names)
    parameters = model.detector.parameters()
    report = fit(arrays, parameters, model.detector.channel_last, classes)
    if not report.kept:
        raise PointDetError(f"nothing in {source} fits this network; check model.arch, num_layers and width")
    copied = (*report.kept, *report.by_class)
    values.check({name: arrays[name] for name in copied}, str(source))
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
        _load(h5_file.read(path), path, model)
    else:
        _load(from_torch(torch_file.read(path), settings.arch, model.config.input.colour_order), path, model)
