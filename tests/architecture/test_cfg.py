# SPDX-License-Identifier: Apache-2.0
"""Every file of cfg/ loads, and its head states command, hardware, time, expected AP and source."""

from itertools import takewhile
from pathlib import Path

import pytest

from pointdet.config.load import load

CFG = Path(__file__).parents[2] / "cfg"
HEAD = ("command", "hardware", "time", "expected", "source")


@pytest.mark.parametrize("path", sorted(CFG.glob("*.yaml")), ids=lambda path: path.name)
def test_loads_and_has_a_head(path):
    load(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    head = list(takewhile(lambda line: line.startswith("#"), lines))
    stated = {line.lstrip("# ").partition(":")[0].partition(" ")[0].lower() for line in head if ":" in line}
    assert set(HEAD) <= stated, f"the head comment lacks lines that begin with {sorted(set(HEAD) - stated)}"
    assert f"cfg/{path.name}" in "\n".join(head)


@pytest.mark.parametrize("path", sorted(CFG.glob("*_mp.yaml")), ids=lambda path: path.name)
def test_mixed_precision_changes_precision_only(path):
    """The pair fp, mp is one experiment at two precisions; what half the memory allows may differ."""
    single = load(path.with_name(path.name.replace("_mp", "_fp"))).model_dump()
    mixed = load(path).model_dump()
    assert not single.pop("mixed_precision")["mixed_precision"]
    assert mixed.pop("mixed_precision")["mixed_precision"]
    for settings in (single, mixed):
        del settings["train"]["batch_size"], settings["train"]["learning_rate"]["base_lr"]
    assert mixed == single
