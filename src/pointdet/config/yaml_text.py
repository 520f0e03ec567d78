# SPDX-License-Identifier: Apache-2.0
"""YAML text -> plain values, and the line of every key. A text cannot take more time and memory than its bounds allow.

A text has at most 100,000 characters and 30 levels. Aliases are allowed, but with all of them written out the text
has at most 10,000 values: 700 characters of aliases could otherwise stand for more values than fit into memory.
"""

from __future__ import annotations

from typing import Any

import yaml

MAX_LENGTH = 100_000  # characters; the largest file in cfg/ has 3,000
MAX_DEPTH = 30
MAX_VALUES = 10_000

Lines = dict[tuple[str, ...], int]  # key path -> line, from 1


class YamlFault(Exception):
    """A text is not valid YAML, or exceeds a bound. The message is the reason."""

    def __init__(self, reason: str, node: yaml.Node | yaml.Event | None = None) -> None:
        """`node`: where the reason is, if that is known."""
        super().__init__(reason)
        mark = None if node is None else node.start_mark
        self.line = None if mark is None else mark.line + 1


def parse(text: str) -> tuple[Any, Lines]:
    """The values of a YAML text, built of dicts, lists and scalars, and the line of every key.

    Errors: YamlFault.
    """
    if len(text) > MAX_LENGTH:
        raise YamlFault(f"it has more than {MAX_LENGTH:,} characters")
    try:
        _check_depth(text)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        _check_size(node, {}, ())
        lines = _lines(node)
        return loader.construct_document(node), lines
    except yaml.YAMLError as error:
        raise YamlFault(" ".join(str(error).split())) from None
    # PyYAML's constructors of `!!int x`, `!!bool x`, `!!timestamp x` and `!!float x` raise these.
    except (ValueError, KeyError, AttributeError, TypeError, OverflowError):
        raise YamlFault("a value does not have the type of its tag (!!)") from None


def _check_depth(text: str) -> None:
    """The parser of events needs no recursion, but the composer of nodes does."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise YamlFault(f"more than {MAX_DEPTH} levels are nested", event)


def _check_size(
    node: yaml.Node, known: dict[yaml.Node, tuple[int, int]], parents: tuple[yaml.Node, ...]
) -> tuple[int, int]:
    """The number of values and of levels in a node with aliases written out. `known`: those of other nodes."""
    if node in parents:
        raise YamlFault("an alias stands for a value that contains it", node)
    if node not in known:
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        sizes = [_check_size(part, known, (*parents, node)) for part in parts]
        known[node] = (
            1 + sum(values for values, _ in sizes),
            1 + max((levels for _, levels in sizes), default=0),
        )
    values, levels = known[node]
    if values > MAX_VALUES or levels > MAX_DEPTH + 1:
        raise YamlFault(f"aliases stand for more than {MAX_VALUES:,} values or {MAX_DEPTH} levels", node)
    return values, levels


def _lines(node: yaml.Node, path: tuple[str, ...] = ()) -> Lines:
    """Errors: YamlFault for a duplicate key, or a key that is not a word."""
    found: Lines = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise YamlFault("a key is a list or a mapping; write a word", key)
            here = (*path, key.value)
            if here in found:
                raise YamlFault(f"the key {'.'.join(here)} occurs twice; remove one", key)
            found[here] = key.start_mark.line + 1
            found.update(_lines(value, here))
    return found
