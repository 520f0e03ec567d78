# SPDX-License-Identifier: Apache-2.0
"""The class names and settings of a weight file: its own notes, or what is assumed for a file of another system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointdet.config.load import override, validate
from pointdet.config.schema import Config
from pointdet.conversion.notes import Notes
from pointdet.errors import PointDetError
from pointdet.weights import class_names, systems
from pointdet.weights.naming.catalogue import official
from pointdet.weights.systems import System

DATA: dict[str, dict[str, Any]] = {"coco": systems.COCO_DATA, "voc": systems.VOC_DATA}
NAMES = {"coco": class_names.COCO, "voc": class_names.VOC}
CUSTOM = {"dataset": "custom", "format": "coco"}


@dataclass(frozen=True)
class FileSettings:
    """What is known about a file, and what is assumed."""

    config: Config
    theirs: tuple[str, ...] | None  # the classes of the file; None if they are unknown
    names: tuple[str, ...]  # the classes of the new network
    assumed: tuple[tuple[str, str], ...] = ()  # (setting and value, the flag that changes it)


def own_system(notes: Notes) -> System:
    """The system of a file that PointDet exported."""
    names = official(notes.config.model, notes.config.detector.name)
    return System("PointDet", names, len(notes.class_names), {})


def of_notes(notes: Notes, classes: str | None, overrides: Sequence[str]) -> FileSettings:
    """The settings of a file that PointDet exported. classes: see `import_published`."""
    names = notes.class_names if classes is None else class_names.named(classes)
    config = override(notes.config, overrides)
    if names != notes.class_names:
        config = config.model_copy(update={"dataset": validate({"dataset": CUSTOM}, "").dataset})
    return FileSettings(config, notes.class_names, names)


def of_system(source: Path, system: System, classes: str | None, overrides: Sequence[str]) -> FileSettings:
    """The settings of a file of another system. Such a file has no class names and no settings.

    The settings for COCO or VOC apply only if the classes of the file are those of COCO or VOC.
    Errors: PointDetError if the class names are unknown.
    """
    given = None if classes is None else class_names.named(classes)
    by_count = class_names.of_count(system.classes)
    theirs = given if given is not None and len(given) == system.classes else by_count
    names = given or theirs
    if names is None:
        raise PointDetError(
            f"{source} has {system.classes} classes without names; add --classes FILE with one name per line"
        )
    data = next((data for data, known in NAMES.items() if theirs and set(theirs) == set(known)), None)
    exact = data is not None and names == NAMES[data]
    values = {"dataset": DATA[data] if data and exact else CUSTOM}
    values |= _merged(system.settings, system.data_settings.get(data or "", {}))
    config = validate(values, str(source))
    if system.published and "published" in type(config.detector).model_fields:
        config = override(config, ["detector.published=true"])
    config = override(config, overrides)
    assumed = _assumed(config, overrides)
    if theirs is not None and theirs is not given:
        assumed = ((f"classes of {str(data).upper()}, by their number", "--classes FILE"), *assumed)
    return FileSettings(config, theirs, names, assumed)


def _merged(settings: systems.Settings, more: systems.Settings) -> systems.Settings:
    """The settings with the values of `more`, section by section."""
    return settings | {section: settings.get(section, {}) | values for section, values in more.items()}


def _assumed(config: Config, overrides: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The settings of the input that no override gives."""
    given = {text.partition("=")[0].strip() for text in overrides}
    size = config.input
    rows = {
        "height": (f"input height {size.height}", "PIXELS"),
        "width": (f"input width {size.width}", "PIXELS"),
        "colour_order": (f"colour order {size.colour_order}", "rgb" if size.colour_order == "bgr" else "bgr"),
        "mean": (f"mean {_numbers(size.mean)} of {size.colour_order}", "[N,N,N]"),
        "std": (f"std {_numbers(size.std)} of {size.colour_order}", "[N,N,N]"),
    }
    return tuple(
        (text, f"--set input.{key}={value}")
        for key, (text, value) in rows.items()
        if f"input.{key}" not in given and "input" not in given
    )


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"
