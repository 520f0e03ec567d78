# SPDX-License-Identifier: Apache-2.0
"""What can be known of the Dockerfile without Docker: its base, its user, and that all it copies is there."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def steps():
    """(instruction, arguments) of every step."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    return [(instruction, arguments.strip()) for instruction, arguments in lines]


def test_base_has_what_nnabla_is_linked_to(steps):
    """CUDA 12, cuDNN 8 (9 will not do), and Ubuntu 22.04 for its Python 3.10."""
    (base,) = [arguments for instruction, arguments in steps if instruction == "FROM"]
    assert base.startswith("nvidia/cuda:12.") and base.endswith("-cudnn8-runtime-ubuntu22.04")


def test_extension_without_the_wheels_of_the_libraries(steps):
    """The base has the libraries already, which are 2 GB."""
    (command,) = [arguments for step, arguments in steps if step == "RUN" and "cuda120" in arguments]
    assert command.startswith("grep -v ^nvidia- requirements-cuda120.txt > requirements-extension.txt")
    assert "--requirement requirements-extension.txt" in command
    pins = (ROOT / "requirements-cuda120.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in pins if not line.startswith(("nvidia-", "#"))]
    assert kept == ["nnabla-ext-cuda120==1.39.0"]


def test_does_not_run_as_root(steps):
    assert [arguments for instruction, arguments in steps if instruction == "USER"][-1] not in ("root", "0")


def test_everything_copied_exists_and_reaches_the_builder(steps):
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for step, names in steps if step == "COPY" for name in names.split()[:-1]}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
