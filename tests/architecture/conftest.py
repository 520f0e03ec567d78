# SPDX-License-Identifier: Apache-2.0
"""The source tree as the tests of the architecture see it: every module, parsed, and what it imports."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"


@dataclass(frozen=True)
class Module:
    """One file of src. Imports are dotted names, those inside functions too."""

    name: str
    path: Path
    tree: ast.Module
    imports: frozenset[str]  # all of them
    imports_at_run_time: frozenset[str]  # without those under TYPE_CHECKING


@pytest.fixture(scope="session")
def modules() -> dict[str, Module]:
    """Dotted name -> Module, of every Python file below src."""
    paths = {_dotted_name(path): path for path in sorted(SRC.rglob("*.py"))}
    found = {}
    for name, path in paths.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        every, executed = (frozenset(_imports(tree, set(paths), types)) for types in (True, False))
        found[name] = Module(name, path, tree, every, executed)
    return found


def _dotted_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(node: ast.AST, known: set[str], types: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if not types and isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0 and child.module, "imports are absolute"
            for alias in child.names:
                submodule = f"{child.module}.{alias.name}"
                yield submodule if submodule in known else child.module
        else:
            yield from _imports(child, known, types)
