# SPDX-License-Identifier: Apache-2.0
"""The shipped configurations, in cfg/, by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from pointdet.errors import PointDetError

PACKAGE = Path(__file__).resolve().parents[1]
# Inside the package if it is installed, next to src/ in a checkout.
FOLDER = next(folder for folder in (PACKAGE / "cfg", PACKAGE.parents[1] / "cfg") if folder.is_dir())


def find(config: Path) -> Path:
    """The file of a configuration: `config` itself or, if it does not exist, the shipped configuration of
    that name.

    The suffix is optional: ``resnet_18_pascal_fp``.

    Errors: PointDetError if neither exists.
    """
    if config.exists():
        return config
    named = FOLDER / f"{config.name.removesuffix('.yaml')}.yaml"
    if config.parent == Path() and named.is_file():
        return named
    near = difflib.get_close_matches(named.stem, names(), n=1, cutoff=0.0)
    raise PointDetError(
        f"there is no configuration {config}; give an existing YAML file, or the name of a shipped "
        f"configuration (nearest: {near[0]})"
    )


def names() -> list[str]:
    """The names of all shipped configurations."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))
