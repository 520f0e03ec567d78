# SPDX-License-Identifier: Apache-2.0
"""The machine of a measurement: processor, cores, versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def describe() -> str:
    """One line that describes this machine."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    return (
        f"{processor}, {os.cpu_count()} cores; "
        f"NNabla {version('nnabla')}, NumPy {version('numpy')}, Python {platform.python_version()}"
    )
