# SPDX-License-Identifier: Apache-2.0
"""Options of other systems: what the programs say, and docs/migration.md, whose options and keys must exist."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from pointdet.config import shipped
from pointdet.config.load import load, override
from pointdet.errors import PointDetError
from pointdet.programs import convert, demo, export, test, train
from pointdet.programs.other_systems import INSTEAD
from pointdet.programs.parser import Parser

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
PROGRAMS = {"main": train, "test": test, "demo": demo, "save_nnp": export, "convert_weights": convert}
CONFIGS = [
    load(shipped.FOLDER / f"{name}.yaml")
    for name in ("resnet_18_coco_fp", "cornernet_hourglass_52_coco_fp", "triplet_hourglass_52_coco_fp")
]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("|") and not line.startswith("|---")
]
OURS = [row[-1] for row in ROWS]  # the last column
KEY = re.compile(
    r"\b(?:dataset|model|detector|input|augment|train|mixed_precision|runtime|test)\.[a-z_]+[a-z_.]*"
)
FILES = re.compile(r"\.(py|md|yaml|json)\b")


def options(program, monkeypatch):
    """The option strings of a program."""
    found = {}

    def parse_known_args(self, args=None, namespace=None):
        found.update(self._option_string_actions)
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
    with pytest.raises(SystemExit):
        program.parse([], "x")
    monkeypatch.undo()
    return set(found)


def has_key(config, key):
    value = config
    for part in key.split("."):
        if part not in getattr(type(value), "model_fields", {}):
            return False
        value = getattr(value, part)
    return True


@pytest.mark.parametrize("flag", sorted(INSTEAD))
def test_is_refused_with_one_sentence(flag, capsys):
    # main.py takes these as the starts of --show-config and --output.
    program = test if flag in ("--show", "--out") else train
    for argument in (flag, f"{flag}=3"):
        with pytest.raises(SystemExit):
            program.parse(["ctdet", "--train-config", "x.yaml", argument, "3"], "x.py")
        message = capsys.readouterr().err.splitlines()[-1]
        assert message == f"x.py: error: {flag} is an option of another system; instead: {INSTEAD[flag]}"


def test_a_program_uses_its_own_option():
    assert test.parse(["--arch", "dla", "--K", "40", "--debug"], "test.py").K == 40
    assert demo.parse(["--demo", "x.jpg", "--debug", "2"], "demo.py").debug == 2
    plain = Parser(prog="x")
    plain.add_argument("--lr")
    assert plain.parse_args(["--lr", "3"]).lr == "3"


def test_the_page_has_every_option():
    missing = [flag for flag in INSTEAD if not re.search(rf"`{flag}[ `]", PAGE)]
    assert not missing


def settings(text):
    found = re.findall(r"--set ([\w.]+=(?:\[[^\]]*\]|[\w.-]+))", text)
    return [setting for setting in found if setting.lower() not in ("key=value", "section.key=value")]


@pytest.mark.parametrize("text", [*INSTEAD.values(), *OURS])
def test_settings_are_valid_and_keys_exist(text):
    for setting in settings(text.replace("=N`", "=8`")):
        for config in CONFIGS:
            try:
                override(config, [setting])
                break
            except PointDetError as error:
                fault = error
        else:
            raise fault
    for key in KEY.findall(text):
        key = key.rstrip(".")
        if not FILES.search(key) and f"{key}(" not in text:
            assert any(has_key(config, key) for config in CONFIGS), key


def test_options_of_the_last_column_exist(monkeypatch):
    known = {name: options(program, monkeypatch) for name, program in PROGRAMS.items()}
    everything = set().union(*known.values())
    for text in (*INSTEAD.values(), *OURS):
        for flag in re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", text):
            assert flag in everything, (flag, text)
        for name, flag in re.findall(r"\b(main|test|demo|save_nnp)\.py (--[\w-]+)", text):
            assert flag in known[name], (name, flag)


def commands():
    table = PAGE.split("## Commands")[1].split("##")[0]
    cells = [line.strip("|").split(" | ")[-1] for line in table.splitlines() if line.startswith("| ")]
    return [command for cell in cells for command in re.findall(r"`([^`]+)`", cell) if "src/" in command]


@pytest.mark.parametrize("command", commands())
def test_commands_can_be_parsed(command):
    words = shlex.split(command.replace("...", "--train-config cfg/quickstart.yaml"))
    name = next(word for word in words if word.startswith("src/"))
    args = PROGRAMS[Path(name).stem].parse(words[words.index(name) + 1 :], name)
    if getattr(args, "train_config", None):
        load(ROOT / args.train_config, args.set)


def test_there_are_commands():
    assert len(commands()) > 12
