# SPDX-License-Identifier: Apache-2.0
"""Import published weights as a checkpoint with detector, class names and input settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nnabla as nn
import numpy as np

from pointdet.arrays import Arrays
from pointdet.config.load import override, validate
from pointdet.config.schema import Config
from pointdet.conversion.report import Report, compare
from pointdet.detectors import catalogue
from pointdet.errors import PointDetError, first_few
from pointdet.ops.layers import parameters_without_values
from pointdet.weights import checkpoint, class_names, fit, h5_file, plain_file, published, systems, torch_file
from pointdet.weights.naming.catalogue import to_ours
from pointdet.weights.systems import System

CLASSIFIERS = {"fc.weight", "classifier.weight", "fc/fc/conv/W"}


@dataclass(frozen=True)
class PublishedWeights:
    """The weights of another system by our parameter paths, and the configuration of their network."""

    source: Path
    system: System
    config: Config
    class_names: tuple[str, ...]
    arrays: Arrays
    trainable: dict[str, bool]  # all parameters of the network; False: running statistics
    report: Report

    def describe(self) -> str:
        """The system and network of the file, and the table of its parameters."""
        model = self.config.model
        network = f"{model.arch} {model.num_layers}, {self.system.classes} classes"
        return f"{self.source}: {self.system.title}, {network}\n{self.report.table()}"

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
        known = class_names.of_count(self.system.classes) or ()
        for path in self.report.per_class:
            for row, name in enumerate(self.class_names):
                if name in known:
                    arrays[path][row] = self.arrays[path][known.index(name)]
        return arrays


def import_published(
    source: Path,
    classes: str | None = None,
    swap_heads: published.SwapHeads = "ask",
    overrides: Sequence[str] = (),
) -> PublishedWeights:
    """Read the file `source` and recognise its system by its keys.

    classes: "coco", "voc" or a text file, see `class_names.named`. If it has as many names as the file has
    classes, they are the names of these classes. Otherwise they are the classes for fine-tuning, and
    parameters of classes that the file also has are kept. swap_heads: see `published.unswapped`, for .h5
    files only. overrides: section.key=value. Errors: PointDetError if the file is broken or of an unknown
    system.
    """
    return import_arrays(_read(source), source, classes, swap_heads, overrides)


def import_arrays(
    file: Arrays,
    source: Path,
    classes: str | None = None,
    swap_heads: published.SwapHeads = "ask",
    overrides: Sequence[str] = (),
) -> PublishedWeights:
    """As `import_published`, for the arrays `file` that were read from `source`."""
    shapes = {key: array.shape for key, array in file.items()}
    system = systems.recognise(shapes)
    if system is None:
        raise _unknown(source, shapes)
    names = _class_names(source, system.classes, classes)
    config = _config(source, system, names, overrides)
    network = _network(config, len(names))
    if system.names is None:
        paths = {key: key for key in file}
        arrays = fit.with_input_channels(fit.converted(file, False), 3, False)
        arrays = published.unswapped(arrays, source, swap_heads)
    else:
        paths = {key: path for key in file if (path := system.names.ours(key)) is not None}
        arrays = system.complete(to_ours(file, system.names))
    found = {path: array.shape for path, array in arrays.items()}
    wanted = {path: variable.shape for path, variable in network.items()}
    report = compare(shapes, paths, found, wanted, (system.classes, len(names)))
    trainable = {path: variable.need_grad for path, variable in network.items()}
    return PublishedWeights(source, system, config, names, arrays, trainable, report)


def _read(source: Path) -> Arrays:
    """The arrays of a file by its own keys, as float32."""
    if source.suffix == ".h5":
        return h5_file.read(source)
    if source.suffix in plain_file.SUFFIXES:
        return plain_file.read(source)
    return torch_file.read(source)


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


def _class_names(source: Path, count: int, classes: str | None) -> tuple[str, ...]:
    """The class names of the new network. Errors: PointDetError if they are unknown."""
    names = class_names.of_count(count) if classes is None else class_names.named(classes)
    if names is None:
        raise PointDetError(
            f"{source} has {count} classes without names; add --classes FILE with one name per line"
        )
    return names


def _config(source: Path, system: System, names: tuple[str, ...], overrides: Sequence[str]) -> Config:
    known = class_names.of_count(system.classes)
    data: dict[str, Any] = systems.VOC_DATA if known == class_names.VOC else systems.COCO_DATA
    if names != known:  # the data set of these classes is unknown
        data = {"dataset": "custom", "format": "coco"}
    config = validate({"dataset": data, **system.settings}, str(source))
    if system.published and "published" in type(config.detector).model_fields:
        config = override(config, ["detector.published=true"])
    return override(config, overrides)


def _network(config: Config, num_classes: int) -> dict[str, nn.Variable]:
    """The parameters of the network, without values."""
    detector = catalogue.build(config, num_classes)
    with parameters_without_values():
        detector.make_parameters(config.model.granularity)
    return detector.parameters()


def _initialised(config: Config, num_classes: int) -> Arrays:
    """The parameters of the network with their random initial values."""
    nn.seed(config.train.seed)
    detector = catalogue.build(config, num_classes)
    detector.make_parameters(config.model.granularity)
    return {path: np.array(variable.d, np.float32) for path, variable in detector.parameters().items()}
