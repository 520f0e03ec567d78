# SPDX-License-Identifier: Apache-2.0
"""The docstrings under the keys are the reference of the configuration: none may be missing."""

import ast
import inspect

import pytest

from pointdet.config import detectors, schema, training


def undocumented(module):
    """The keys, as "Section.key", without a docstring on the next line."""
    tree = ast.parse(inspect.getsource(module))
    for section in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for key, following in zip(section.body, [*section.body[1:], None], strict=True):
            documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if isinstance(key, ast.AnnAssign) and not documented:
                yield f"{section.name}.{key.target.id}"


@pytest.mark.parametrize("module", [detectors, schema, training])
def test_every_key_has_a_docstring(module):
    sections = {f"Config.{name}" for name in schema.Config.model_fields}
    assert set(undocumented(module)) - sections == set()
