# SPDX-License-Identifier: Apache-2.0
"""Imports run down the floors of the house, never in a circle, and the numpy rooms never wake NNabla."""

import subprocess
import sys
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter

import pytest

FLOORS = {
    "pointdet.ops": 1,
    "pointdet.config": 1,
    "pointdet.structures": 1,
    "pointdet.geometry": 1,
    "pointdet.suppression": 1,
    "pointdet.errors": 1,
    "pointdet.runtime": 1,
    "pointdet.processor": 1,
    "pointdet.backbones": 2,
    "pointdet.weights": 2,
    "pointdet.drawing": 2,
    "pointdet.detectors": 3,
    "pointdet.data": 3,
    "pointdet.inference": 4,
    "pointdet.export": 4,
    "pointdet.conversion": 4,
    "pointdet.evaluation": 5,
    "convert_weights": 5,
    "demo": 5,
    "save_nnp": 5,
    "pointdet.training": 6,
    "test": 6,
    "main": 7,
}
STRANGERS = {frozenset({"pointdet.detectors", "pointdet.data"})}  # the codec is handed to the loader

NUMPY_ROOMS = (
    "pointdet",
    "pointdet.errors",
    "pointdet.structures",
    "pointdet.geometry",
    "pointdet.suppression",
    "pointdet.config",
    "pointdet.config.*",
    "pointdet.data",
    "pointdet.data.*",
    "pointdet.detectors.heatmaps",
    "pointdet.detectors.*.codec",
)


def room(module):
    """pointdet.data.coco -> pointdet.data; the doors and the package's front are their own rooms."""
    return ".".join(module.split(".")[:2])


def own_imports(module, modules):
    """The modules of src that this one imports; not the front, `pointdet`, which loads on first use."""
    return {name for name in module.imports if name in modules and name != "pointdet"}


def numpy_rooms(modules):
    return [name for name in modules if any(fnmatch(name, pattern) for pattern in NUMPY_ROOMS)]


def test_every_room_has_a_floor(modules):
    assert {room(name) for name in modules} - {"pointdet"} <= set(FLOORS)


def test_imports_run_down(modules):
    wrong = [
        f"{name} imports {other}"
        for name, module in modules.items()
        if name != "pointdet"
        for other in own_imports(module, modules)
        if FLOORS[room(other)] > FLOORS[room(name)] or {room(name), room(other)} in STRANGERS
    ]
    assert not wrong


def test_no_circle(modules):
    graph = {name: own_imports(module, modules) for name, module in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_numpy_rooms_name_no_nnabla(modules):
    """Followed through every import, also those inside functions."""
    wrong = []
    for start in numpy_rooms(modules):
        if start == "pointdet":
            continue
        reached, todo = set(), [start]
        while todo:
            name = todo.pop()
            reached.add(name)
            if any(target.split(".")[0] in ("nnabla", "nnabla_ext") for target in modules[name].imports):
                wrong.append(f"{start} reaches nnabla through {name}")
            parents = {name.rpartition(".")[0]} - {"pointdet", ""}
            todo += (own_imports(modules[name], modules) | parents) - reached
    assert not wrong


def test_numpy_rooms_run_without_nnabla(modules):
    """As a loader's worker process imports them."""
    code = f"import sys, importlib; [importlib.import_module(name) for name in {numpy_rooms(modules)}]"
    code += "; sys.exit('nnabla' in sys.modules)"
    source = modules["pointdet"].path.parents[1]
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=source, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr or "nnabla was imported"
