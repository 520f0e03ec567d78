# SPDX-License-Identifier: Apache-2.0
"""The tests of benchmarks import their modules."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GPU = BENCHMARKS / "gpu"
# At the end: some names there, such as ranks, are also those of test folders.
sys.path.append(str(BENCHMARKS))


@pytest.fixture
def gpu_modules(monkeypatch):
    """During the test, the modules of benchmarks/gpu and benchmarks/gpu/pack can be imported by their names.

    Other modules may have the same names, for example tests/networks.py.
    """
    names = {file.stem for file in GPU.rglob("*.py")}
    others = {name: sys.modules.pop(name) for name in names & set(sys.modules)}
    for folder in (GPU, GPU / "pack"):
        monkeypatch.syspath_prepend(folder)
    yield
    for name in names & set(sys.modules):
        del sys.modules[name]
    sys.modules.update(others)
