# SPDX-License-Identifier: Apache-2.0
"""How a run begins: its folder, its log, and the parameters it starts from."""

from __future__ import annotations

import logging
from pathlib import Path

import nnabla as nn

from pointdet.backbones.catalogue import imagenet_files
from pointdet.config import load
from pointdet.config.schema import Config
from pointdet.detectors import catalogue
from pointdet.errors import PointDetError
from pointdet.inference.restore import Model
from pointdet.runtime import Runtime
from pointdet.training.journal import environment, keep_log, log_to_console
from pointdet.weights import checkpoint as checkpoints
from pointdet.weights import h5_file, published, torch_file
from pointdet.weights.fit import fit
from pointdet.weights.imagenet import from_torch

logger = logging.getLogger("pointdet")


def begin(folder: Path, resume: bool, runtime: Runtime, iteration: int = 0) -> Path | None:
    """Start the log; the checkpoint to resume, the last or that of `iteration`, or None. Writes nothing.

    Errors: PointDetError when a run would be overwritten, or when there is nothing to resume.
    """
    log_to_console(runtime.ranks.rank)
    chosen = None
    if runtime.ranks.rank == 0:
        checkpoints.complete(folder / "checkpoints")
        found = checkpoints.by_iteration(folder / "checkpoints")
        if found and not (resume or iteration):
            raise PointDetError(
                f"{folder} already holds a run; add --resume to continue it, or choose another -o"
            )
        if not found and (resume or iteration):
            raise PointDetError(
                f"there is no checkpoint to resume in {folder}; start without {'--iter' if iteration else '--resume'}"
            )
        if iteration:
            chosen = checkpoints.at_iteration(folder / "checkpoints", iteration)
        elif found:
            chosen = checkpoints.find(folder / "checkpoints" / "last") or found[-1][1]
    chosen_anywhere: Path | None = runtime.ranks.broadcast(chosen)
    logger.info("%s", runtime.describe())
    return chosen_anywhere


def go_back(folder: Path, iteration: int, runtime: Runtime) -> None:
    """Set aside what a run did after `iteration`, so that going on from there replaces no checkpoint."""
    aside = checkpoints.set_aside(folder / "checkpoints", iteration) if runtime.ranks.rank == 0 else None
    if aside is not None:
        logger.info("the checkpoints after iteration %d are now in %s", iteration, aside)


def open_folder(folder: Path, config: Config, runtime: Runtime) -> None:
    """Make the run folder with config.yaml, environment.txt and log.txt, when all else is in order.

    Errors: PointDetError without permission.
    """
    if runtime.ranks.rank == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(load.dump(config), encoding="utf-8")
            (folder / "environment.txt").write_text(environment(runtime.describe()), encoding="utf-8")
            keep_log(folder)
        except OSError as error:
            raise PointDetError(f"cannot write to {folder} ({error.strerror}); choose another -o") from None
    runtime.ranks.broadcast(None)  # nobody runs ahead of the folder


def fresh(config: Config, class_names: tuple[str, ...], runtime: Runtime) -> Model:
    """A detector with parameters drawn from train.seed, the same on every rank."""
    nn.seed(config.train.seed)
    detector = catalogue.build(config, len(class_names))
    detector.make_parameters(config.model.granularity)
    return Model(detector, config, class_names, runtime)


def take_parameters(path: Path, model: Model) -> None:
    """Fine-tuning: take what fits of a checkpoint folder or an .h5 file, and report kept, skipped and new.

    Errors: PointDetError when nothing fits.
    """
    source = path / checkpoints.read_state(path)["weights"] if path.is_dir() else path
    arrays = h5_file.read(source)
    if source == path and published.heads_look_swapped(arrays):
        logger.warning("%s: size and offset heads are exchanged, as in files before February 2023", source)
        arrays = published.with_swapped_heads(arrays)
    _take(arrays, source, model)


def _take(arrays: h5_file.Arrays, source: Path, model: Model) -> None:
    report = fit(arrays, model.detector.parameters(), model.detector.channel_last)
    if not report.kept:
        raise PointDetError(f"nothing in {source} fits this network; check model.arch, num_layers and width")
    logger.info("%s: %s", source, report.describe())


def take_imagenet(model: Model) -> None:
    """The backbone's ImageNet parameters out of model.pretrained_model_dir: NNabla's files, in either layout, or
    PyTorch's, whose first convolution is turned from RGB to the order that is fed.

    Errors: PointDetError when the file is not there: nothing starts from scratch by accident.
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
        take_parameters(path, model)
    else:
        _take(from_torch(torch_file.read(path), settings.arch, model.config.input.colour_order), path, model)
