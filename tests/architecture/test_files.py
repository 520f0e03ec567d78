# SPDX-License-Identifier: Apache-2.0
"""Every file: its licence line, its sentence, its length, and nothing that is true of one machine only."""

import ast
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 300  # of a file of the package; tests may have 350

SUFFIXES = {".py", ".md", ".yaml", ".toml", ".txt", ".json"}
NAMES = {"Makefile", "Dockerfile", "run", "venv"}
ONE_MACHINE = re.compile(r"(?<![\w.$}])/(?:work|root|home/\w+|tmp/\w+)/")
PACKAGE_INDEX = re.compile(r"\bpypi\.|pythonhosted\.|index-url\s*[=:]|--index-url\s|--extra-index-url")


def files():
    """Every text file of the project."""
    found = []
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = [
            name
            for name in subfolders
            if name == ".ci" or not name.startswith(".") and name not in ("runs", "__pycache__")
        ]
        found += [Path(folder, name).relative_to(ROOT) for name in names]
    return sorted(path for path in found if path.suffix in SUFFIXES or path.name in NAMES)


FILES = files()
PYTHON_FILES = [path for path in FILES if path.suffix == ".py"]


@pytest.mark.parametrize("path", PYTHON_FILES, ids=str)
def test_begins_with_licence_and_sentence(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    lines = text.splitlines()
    assert "# SPDX-License-Identifier: Apache-2.0" in lines[:2]  # the second line below a #!
    assert ast.get_docstring(ast.parse(text)), "the file has no docstring that says what it is"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=str)
def test_length(path):
    limit = MAX_LINES if path.parts[0] == "src" else MAX_LINES + 50
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= limit


@pytest.mark.parametrize("pattern", [ONE_MACHINE, PACKAGE_INDEX], ids=["path", "package index"])
def test_nothing_of_one_machine(pattern):
    wrong = [
        f"{path}:{number}: {line.strip()}"
        for path in FILES
        if path != Path(__file__).relative_to(ROOT)
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not wrong
