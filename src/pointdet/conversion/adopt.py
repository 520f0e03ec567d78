# SPDX-License-Identifier: Apache-2.0
"""A published file of parameters -> a checkpoint that knows its detector, its classes and how its images are fed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nnabla as nn
import numpy as np

from pointdet.config.load import override, validate
from pointdet.config.schema import Config
from pointdet.conversion.report import Report, compare
from pointdet.detectors import catalogue
from pointdet.errors import PointDetError
from pointdet.ops.layers import undrawn
from pointdet.weights import checkpoint, class_names, fit, h5_file, plain_file, published, systems, torch_file
from pointdet.weights.h5_file import Arrays
from pointdet.weights.naming.catalogue import to_ours
from pointdet.weights.systems import System

CLASSIFIERS = {"fc.weight", "classifier.weight", "fc/fc/conv/W"}


@dataclass(frozen=True)
class Adopted:
    """The parameters of another system, under our names, and the network that they are for."""

    source: Path
    system: System
    config: Config
    class_names: tuple[str, ...]
    arrays: Arrays
    learnt: dict[str, bool]  # every parameter of the network; False: a statistic
    report: Report

    def describe(self) -> str:
        """What the file is, and the table of its parameters."""
        model = self.config.model
        network = f"{model.arch} {model.num_layers}, {self.system.classes} classes"
        return f"{self.source}: {self.system.title}, {network}\n{self.report.table()}"

    def save(self, folder: Path, partial: bool = False) -> None:
        """Write the checkpoint.

        partial: what the file lacks is drawn anew, what the network lacks is left out. Errors: PointDetError for a
        misfit, and where the folder exists or cannot be written; nothing is left half written.
        """
        if folder.exists():
            raise PointDetError(f"{folder} exists; give another name or remove it")
        if self.report.misfits and not (partial and self.report.kept):
            raise PointDetError(
                f"{self.source} does not fit in {self.report.misfits} parameters, which the table lists; "
                "give the whole file of a published network, or load what fits with --partial"
            )
        arrays = self._complete()
        state = {
            "weights": "parameters.h5",
            "class_names": list(self.class_names),
            "config": self.config.model_dump(mode="json"),
            "source": {"file": self.source.name, "system": self.system.title},
        }
        parameters = {path: (arrays[path], learnt) for path, learnt in self.learnt.items()}
        checkpoint.save(folder, state, lambda writing: h5_file.write(writing / "parameters.h5", parameters))

    def _complete(self) -> Arrays:
        """All parameters: the file's, and drawn ones where it has none. The rows of classes are met by name."""
        if len(self.report.kept) == len(self.learnt):
            return self.arrays
        arrays = _drawn(self.config, len(self.class_names))
        arrays |= {path: self.arrays[path] for path in self.report.kept}
        known = class_names.of_count(self.system.classes) or ()
        for path in self.report.per_class:
            for row, name in enumerate(self.class_names):
                if name in known:
                    arrays[path][row] = self.arrays[path][known.index(name)]
        return arrays


def adopt(
    source: Path,
    classes: str | None = None,
    swap_heads: published.SwapHeads = "ask",
    overrides: Sequence[str] = (),
) -> Adopted:
    """Read `source`, whichever system wrote it; its keys tell.

    classes: "coco", "voc" or a text file. As many as the file has are the names of its classes; another number are
    the classes to be trained next, and those that the file knows by name are taken over. swap_heads: of .h5 files.
    overrides: section.key=value. Errors: PointDetError for a broken or unknown file.
    """
    return adopt_arrays(_read(source), source, classes, swap_heads, overrides)


def adopt_arrays(
    file: Arrays,
    source: Path,
    classes: str | None = None,
    swap_heads: published.SwapHeads = "ask",
    overrides: Sequence[str] = (),
) -> Adopted:
    """`adopt`, where the file `source` has already been read."""
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
        arrays = system.completed(to_ours(file, system.names))
    found = {path: array.shape for path, array in arrays.items()}
    wanted = {path: variable.shape for path, variable in network.items()}
    report = compare(shapes, paths, found, wanted, (system.classes, len(names)))
    learnt = {path: variable.need_grad for path, variable in network.items()}
    return Adopted(source, system, config, names, arrays, learnt, report)


def _read(source: Path) -> Arrays:
    """The arrays of a file by its own keys, float32."""
    if source.suffix == ".h5":
        return h5_file.read(source)
    if source.suffix in plain_file.SUFFIXES:
        return plain_file.read(source)
    return torch_file.read(source)


def _unknown(source: Path, shapes: systems.Shapes) -> PointDetError:
    if CLASSIFIERS & set(shapes):
        return PointDetError(
            f"{source} holds a classifier, not a detector; training takes such files as they are, from "
            "model.pretrained_model_dir"
        )
    first = ", ".join(list(shapes)[:3])
    return PointDetError(
        f"{source} is of no system that is known here (its first keys: {first}); weights/README.md lists them"
    )


def _class_names(source: Path, count: int, classes: str | None) -> tuple[str, ...]:
    """The classes of the network to be. Errors: PointDetError where nobody knows them."""
    names = class_names.of_count(count) if classes is None else class_names.named(classes)
    if names is None:
        raise PointDetError(
            f"{source} has {count} classes and does not say which; add --classes FILE with a name on each line"
        )
    return names


def _config(source: Path, system: System, names: tuple[str, ...], overrides: Sequence[str]) -> Config:
    known = class_names.of_count(system.classes)
    data: dict[str, Any] = systems.VOC_DATA if known == class_names.VOC else systems.COCO_DATA
    if names != known:  # of data that we do not know
        data = {"dataset": "custom", "format": "coco"}
    config = validate({"dataset": data, **system.settings}, str(source))
    if system.published and "published" in type(config.detector).model_fields:
        config = override(config, ["detector.published=true"])
    return override(config, overrides)


def _network(config: Config, num_classes: int) -> dict[str, nn.Variable]:
    """The parameters of the network, without values."""
    detector = catalogue.build(config, num_classes)
    with undrawn():
        detector.make_parameters(config.model.granularity)
    return detector.parameters()


def _drawn(config: Config, num_classes: int) -> Arrays:
    """The parameters of a new network."""
    nn.seed(config.train.seed)
    detector = catalogue.build(config, num_classes)
    detector.make_parameters(config.model.granularity)
    return {path: np.array(variable.d, np.float32) for path, variable in detector.parameters().items()}
