# SPDX-License-Identifier: Apache-2.0
"""Every key of the schema is read by some package outside config/."""

import ast

import pytest
from pydantic import BaseModel

from pointdet.config.schema import Config


def keys(model, path=()):
    """Dotted name of every key that is not itself a section."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        for section in sections:
            yield from keys(section, (*path, name))
        if not sections:
            yield ".".join((*path, name))


@pytest.fixture(scope="module")
def attributes_read(modules):
    return {
        node.attr
        for name, module in modules.items()
        if not name.startswith("pointdet.config")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


@pytest.mark.parametrize("key", sorted(set(keys(Config))))
def test_is_read(key, attributes_read):
    assert key.rpartition(".")[2] in attributes_read
