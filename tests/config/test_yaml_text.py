# SPDX-License-Identifier: Apache-2.0
"""The bounds of YAML texts: hostile ones are refused at once, in one sentence."""

import time
from itertools import pairwise

import pytest

from pointdet.config.load import load
from pointdet.config.yaml_text import YamlFault, parse
from pointdet.errors import PointDetError

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghij")
)
SECTIONS = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{{','.join(f'{key}: *{before}' for key in range(9))}}}\n"
    for before, name in pairwise("abcdefghij")
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 400))
HOSTILE = {
    "tag int": ("a: !!int x", "a value does not have the type of its tag"),
    "tag bool": ("a: !!bool x", "a value does not have the type of its tag"),
    "tag timestamp": ("a: !!timestamp x", "a value does not have the type of its tag"),
    "many digits": ("a: " + "1" * 5000, "a value does not have the type of its tag"),
    "unknown tag": ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "own value": ("a: &a [*a]", "an alias stands for a value that contains it"),
    "own section": ("train: &a\n  learning_rate: *a", "an alias stands for a value that contains it"),
    "deep list": ("a: " + "[" * 3000 + "]" * 3000, "more than 30 levels are nested"),
    "deep section": ("{a: " * 3000 + "}" * 3000, "more than 30 levels are nested"),
    "bomb": (BOMB, "aliases stand for more than 10,000 values or 30 levels"),
    "bomb of sections": (SECTIONS, "aliases stand for more than 10,000 values or 30 levels"),
    "chain": (CHAIN, "aliases stand for more than 10,000 values or 30 levels"),
    "merged bomb": (BOMB.replace("[x,x,x,x,x,x,x,x,x]", "{x: 1}").replace("[", "{<<: [").replace("]", "]}"), "aliases"),
    "long": ("#" * 100_001, "it has more than 100,000 characters"),
    "key": ("? [a, b]\n: 1", "a key is a list or a mapping"),
    "bomb as key": (BOMB + "? *j\n: 1", "aliases stand for more than"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_refused_at_once(tmp_path, name):
    text, reason = HOSTILE[name]
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    start = time.process_time()
    with pytest.raises(PointDetError, match="x.yaml") as caught:
        load(path)
    assert reason in str(caught.value)
    assert time.process_time() - start < 2
    assert len(BOMB) < len(SECTIONS) < 735


@pytest.mark.parametrize("name", ["tag int", "own value", "deep list"])
def test_overrides_have_the_same_bounds(tmp_path, name):
    path = tmp_path / "x.yaml"
    path.write_text("dataset: {dataset: toy, format: coco}\n", encoding="utf-8")
    value = HOSTILE[name][0].removeprefix("a: ")
    with pytest.raises(PointDetError, match="--set 'test.scales=.*the value is not valid YAML"):
        load(path, [f"test.scales={value}"])


def test_aliases_within_the_bounds_are_read():
    values, lines = parse("base: &base {a: 1, b: 2}\nmore:\n  <<: *base\n  b: 3\nagain: *base\n")
    assert values == {"base": {"a": 1, "b": 2}, "more": {"a": 1, "b": 3}, "again": {"a": 1, "b": 2}}
    assert lines["more", "b"] == 4
    assert parse("") == (None, {})


def test_a_fault_names_its_line():
    with pytest.raises(YamlFault) as caught:
        parse("a: 1\nb: 2\na: 3\n")
    assert caught.value.line == 3
