# SPDX-License-Identifier: Apache-2.0
"""Configurations are found by path, and those of cfg/ by name."""

from pathlib import Path

import pytest

from pointdet.config import shipped
from pointdet.errors import PointDetError

CFG = Path(__file__).parents[2] / "cfg"


def test_every_file_has_a_name():
    assert shipped.names() == sorted(path.stem for path in CFG.glob("*.yaml"))


@pytest.mark.parametrize("name", ["resnet_18_pascal_fp", "resnet_18_pascal_fp.yaml"])
def test_by_name_from_any_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert shipped.find(Path(name)).samefile(CFG / "resnet_18_pascal_fp.yaml")


def test_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bccd.yaml").write_text("")
    assert shipped.find(Path("bccd.yaml")) == Path("bccd.yaml")
    assert shipped.find(tmp_path / "bccd.yaml") == tmp_path / "bccd.yaml"


@pytest.mark.parametrize("given", ["bcd", "no/folder/bccd.yaml"])
def test_neither_file_nor_name(given):
    with pytest.raises(PointDetError, match=rf"there is no configuration {given}; .*\(nearest: bccd\)"):
        shipped.find(Path(given))
