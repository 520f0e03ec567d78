# SPDX-License-Identifier: Apache-2.0
"""Import published weights as a checkpoint with detector, class names and input settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nnabla as nn
import numpy as np

from pointdet.arrays import Arrays
from pointdet.config.schema import Config
from pointdet.conversion import settings
from pointdet.conversion.notes import Notes
from pointdet.conversion.report import Report, compare
from pointdet.conversion.settings import FileSettings
from pointdet.detectors import catalogue
from pointdet.detectors.common.base import Detector
from pointdet.errors import PointDetError, first_few
from pointdet.ops.layers import parameters_without_values
from pointdet.weights import (
    checkpoint,
    fit,
    h5_file,
    kind,
    plain_file,
    published,
    systems,
    torch_file,
    values,
)
from pointdet.weights.class_rows import Classes
from pointdet.weights.naming.catalogue import to_ours
from pointdet.weights.systems import System

CLASSIFIERS = {"fc.weight", "classifier.weight", "fc/fc/conv/W"}


@dataclass(frozen=True)
class PublishedWeights:
    """The weights of a file by our parameter paths, and the configuration of their network."""

    source: Path
    system: System
    settings: FileSettings
    arrays: Arrays
    trainable: dict[str, bool]  # all parameters of the network; False: running statistics
    report: Report

    @property
    def config(self) -> Config:
        return self.settings.config

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the new network."""
        return self.settings.names

    @property
    def classes(self) -> Classes | None:
        """The classes of the file and of the network; None if they are the same."""
        known = self.settings.theirs
        return None if known == self.class_names else Classes(known or (), self.class_names)

    def describe(self) -> str:
        """The system and network of the file, what is assumed, and the table of its parameters."""
        model = self.config.model
        lines = [
            f"{self.source}: {self.system.title}, {model.arch} {model.num_layers}, {self.system.classes} classes"
        ]
        lines += [f"  assumed     {text:<54} {flag}" for text, flag in self.settings.assumed]
        lines.append(self.report.table())
        if self.classes is not None:
            for title, names in (
                ("kept", self.classes.kept),
                ("start anew", self.classes.new),
                ("left out", self.classes.left_out),
            ):
                lines += [f"  classes     {title}: {first_few(names, 20)}"] if names else []
        return "\n".join(lines)

    def save(self, folder: Path, partial: bool = False) -> None:
        """Write the checkpoint `folder`, completely or not at all.

        partial: accept parameters that do not fit. Those that the file lacks get random initial values, and
        those that the network lacks are left out. Errors: PointDetError if parameters do not fit, or if the
        folder exists or cannot be written.
        """
        if folder.exists():
            raise PointDetError(f"{folder} exists; give another name or remove it")
        if self.report.misfits and not (partial and self.report.kept):
            raise PointDetError(
                f"{self.source} does not fit in {self.report.misfits} parameters, which the table lists; "
                "give the complete file of a published network, or load what fits with --partial"
            )
        arrays = self._complete()
        state = {
            "weights": "parameters.h5",
            "class_names": list(self.class_names),
            "config": self.config.model_dump(mode="json"),
            "source": {"file": self.source.name, "system": self.system.title},
        }
        parameters = {path: (arrays[path], need_grad) for path, need_grad in self.trainable.items()}
        checkpoint.save(folder, state, lambda writing: h5_file.write(writing / "parameters.h5", parameters))

    def _complete(self) -> Arrays:
        """All parameters of the network; those that do not fit get random initial values.

        In parameters with one row per class, rows are copied for classes that the file also has, by name.
        """
        if len(self.report.kept) == len(self.trainable):
            return self.arrays
        arrays = _initialised(self.config, len(self.class_names))
        arrays |= {path: self.arrays[path] for path in self.report.kept}
        if self.classes is not None:
            for path in self.report.per_class:
                self.classes.copy(self.arrays[path], arrays[path])
        return arrays


def import_published(
    source: Path,
    classes: str | None = None,
    swap_heads: published.SwapHeads = "ask",
    overrides: Sequence[str] = (),
) -> PublishedWeights:
    """Read the file `source`. It has the notes of PointDet, or its system is recognised by its keys.

    classes: "coco", "voc" or a text file, see `class_names.named`. If the file does not name its classes and the
    list has as many names as the file has classes, they are the names of these classes. Otherwise they are the
    classes for fine-tuning, and parameters of classes that the file also has, by name, are kept. swap_heads: see
    `published.unswapped`. overrides: section.key=value. Errors: PointDetError if the file is broken, of an
    unknown system or of a kind that cannot be imported, or if its values are wrong.
    """
    kind.check(source, "torch", "h5", "safetensors", "npz", "other")
    if folder := kind.checkpoint_of(source):
        raise PointDetError(
            f"{source} is a part of the checkpoint {folder}, which has its settings; use that folder with --checkpoint"
        )
    return import_arrays(_read(source), source, classes, swap_heads, overrides, _notes(source))


def import_arrays(
    file: Arrays,
    source: Path,
    classes: str | None = None,
    swap_heads: published.SwapHeads = "ask",
    overrides: Sequence[str] = (),
    notes: Notes | None = None,
) -> PublishedWeights:
    """As `import_published`, for the arrays `file` and the notes that were read from `source`."""
    shapes = {key: array.shape for key, array in file.items()}
    system = systems.recognise(shapes) if notes is None else settings.own_system(notes)
    if system is None:
        raise _unknown(source, shapes)
    if notes is None:
        found_settings = settings.of_system(source, system, classes, overrides)
    else:
        found_settings = settings.of_notes(notes, classes, overrides)
    if system.names is None:
        paths = {key: key for key in file}
        arrays = dict(file)
    else:
        paths = {key: path for key in file if (path := system.names.ours(key)) is not None}
        arrays = system.complete(to_ours(file, system.names))
    values.check(arrays, str(source), {path: key for key, path in paths.items()})
    network = _network(found_settings.config, len(found_settings.names))
    if notes is not None and swap_heads == "ask":
        swap_heads = "no"  # we wrote the names; the heads of an untrained network may look exchanged
    arrays = published.unswapped(_in_layout(arrays, network), source, swap_heads)
    found = {path: array.shape for path, array in arrays.items()}
    parameters = network.parameters()
    wanted = {path: variable.shape for path, variable in parameters.items()}
    same = found_settings.theirs == found_settings.names
    report = compare(
        *(shapes, paths, found, wanted), None if same else (system.classes, len(found_settings.names))
    )
    trainable = {path: variable.need_grad for path, variable in parameters.items()}
    return PublishedWeights(source, system, found_settings, arrays, trainable, report)


def _read(source: Path) -> Arrays:
    """The arrays of a file by its own keys, as float32."""
    match kind.of(source):
        case "h5":
            return h5_file.read(source)
        case "safetensors" | "npz":
            return plain_file.read(source)
    return torch_file.read(source)


def _notes(source: Path) -> Notes | None:
    """The notes of a file that PointDet exported. A parameter file (.h5) and a file of torch have none."""
    if kind.of(source) not in ("safetensors", "npz"):
        return None
    return Notes.read(plain_file.read_metadata(source), source)


def _unknown(source: Path, shapes: systems.Shapes) -> PointDetError:
    if CLASSIFIERS & set(shapes):
        return PointDetError(
            f"{source} is a classifier, not a detector; training reads such files without conversion from "
            "model.pretrained_model_dir"
        )
    keys = first_few(list(shapes), 3)
    return PointDetError(
        f"the system that wrote {source} is unknown (keys: {keys}); weights/README.md lists the known systems"
    )


def _network(config: Config, num_classes: int) -> Detector:
    """The network with its parameters, which have no values."""
    detector = catalogue.build(config, num_classes)
    with parameters_without_values():
        detector.make_parameters(config.model.granularity)
    return detector


def _in_layout(arrays: Arrays, network: Detector) -> Arrays:
    """The arrays in the layout of the network and with its number of input channels."""
    arrays = fit.converted(arrays, network.channel_last)
    return fit.with_input_channels(arrays, network.image_channels, network.channel_last)


def _initialised(config: Config, num_classes: int) -> Arrays:
    """The parameters of the network with their random initial values."""
    nn.seed(config.train.seed)
    detector = catalogue.build(config, num_classes)
    detector.make_parameters(config.model.granularity)
    return {path: np.array(variable.d, np.float32) for path, variable in detector.parameters().items()}
