# SPDX-License-Identifier: Apache-2.0
"""YAML file -> overrides -> Config. Errors are one sentence with the file, the line and the nearest key."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pointdet.config.schema import Config
from pointdet.config.yaml_text import MAX_LENGTH, YamlFault, parse
from pointdet.errors import PointDetError


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The validated configuration of a YAML file, with overrides of the form ``section.key=value``.

    Errors: PointDetError for a file that cannot be read, an unknown key, a wrong type or a value out of
    bounds.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            values, numbers = parse(file.read(MAX_LENGTH + 1))
    except OSError as error:
        raise PointDetError(
            f"cannot read the config {path}: {error.strerror}; give an existing YAML file"
        ) from None
    except UnicodeDecodeError:
        raise PointDetError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except YamlFault as fault:
        if fault.line is not None:
            raise PointDetError(f"{path.name}, line {fault.line}: {fault}") from None
        raise PointDetError(f"{path} is not valid YAML: {fault}") from None
    if not isinstance(values, dict):
        raise PointDetError(
            f"{path} contains no settings; it must be a mapping of sections such as `dataset:`"
        )
    lines = {key: f"line {number}" for key, number in numbers.items()}
    for override in overrides:
        _apply(values, override, lines)
    return validate(values, str(path), lines)


def validate(values: dict[str, Any], source: str, lines: dict[tuple[str, ...], str] | None = None) -> Config:
    """The Config of plain values. Errors: PointDetError that names `source`, and the line from `lines`."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise PointDetError(_message(error, source, lines or {})) from None


def override(config: Config, overrides: Sequence[str]) -> Config:
    """`config` with overrides of the form ``section.key=value``. Errors: as for `load`."""
    # Without defaults, because a detector's keys may not exist for another one.
    values = config.model_dump(mode="json", exclude_unset=True)
    lines: dict[tuple[str, ...], str] = {}
    for text in overrides:
        _apply(values, text, lines)
    return validate(values, "the configuration", lines)


def dump(config: Config) -> str:
    """The configuration with all defaults, as YAML."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _apply(values: dict[str, Any], override: str, lines: dict[tuple[str, ...], str]) -> None:
    key, equals, text = override.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise PointDetError(f"--set {override!r} is not of the form section.key=value")
    section = values
    for name in path[:-1]:
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            raise PointDetError(f"--set {override!r}: {name} is a value, not a section")
    try:
        section[path[-1]], _ = parse(text)
    except YamlFault as fault:
        raise PointDetError(f"--set {override!r}: the value is not valid YAML ({fault})") from None
    for length in range(1, len(path) + 1):
        lines.setdefault(path[:length], f"--set {override}")
    lines[path] = f"--set {override}"


def _message(error: ValidationError, source: str, lines: dict[tuple[str, ...], str]) -> str:
    """The first error as one sentence."""
    first = error.errors()[0]
    path, section = _key_path(tuple(str(part) for part in first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    given = first["input"]
    if first["type"] == "union_tag_invalid":
        path, given = (*path, "name"), first["ctx"]["tag"]
        message = f"input should be one of {first['ctx']['expected_tags']}"
    # An error of Config's own validator has no path, but its message begins with the key.
    named = path or tuple(message.split()[0].split("."))
    where = next((lines[named[:n]] for n in range(len(named), 0, -1) if named[:n] in lines), "")
    place = f"{source}, {where}" if where else source
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = list(section.model_fields)
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(known)}"
        return f"{place}: unknown key {key}; {hint}"
    if first["type"] == "missing":
        return f"{place}: the key {key} is missing; add it"
    value = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{place}: {key + ': ' if key else ''}{message[0].lower() + message[1:]}{value}"


def _key_path(location: tuple[str, ...]) -> tuple[tuple[str, ...], type[BaseModel]]:
    """Location of a pydantic error -> key path and the innermost section of it.

    For a union of sections, such as `detector`, a location also contains the name of the selected section.
    """
    path: list[str] = []
    section: type[BaseModel] = Config
    choice: dict[str, type[BaseModel]] = {}
    for part in location:
        if part in choice:
            section = choice[part]
            choice = {}
            continue
        path.append(part)
        field = section.model_fields.get(part)
        kinds = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        choice = {s.model_fields["name"].default: s for s in sections} if len(sections) > 1 else {}
        section = sections[0] if sections else section
    return tuple(path), section
