# SPDX-License-Identifier: Apache-2.0
"""The heads of official CenterNet ("objects as points") behind ResNet and DLA."""

from __future__ import annotations

from pointdet.weights.naming.leaves import path


def our_name(key: str) -> str | None:
    """Key of a head's parameter -> our path; None for every other key."""
    match key.split("."):
        case ["hm" | "wh" | "reg" as head, "0", leaf]:
            return path(f"{head}_conv1", "conv", leaf)
        case ["hm" | "wh" | "reg" as head, "2", leaf]:
            return path(f"{head}_final", "conv", leaf)
    return None
