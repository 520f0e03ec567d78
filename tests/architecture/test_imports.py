# SPDX-License-Identifier: Apache-2.0
"""Imports run down the layers, never in a circle, and the NumPy modules never import NNabla.

Imports inside functions and under TYPE_CHECKING count as all others do.
"""

import subprocess
import sys
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter

import pytest

# From the top down. A package may import from lower layers only; packages of one layer do not import each other.
LAYERS = (
    {
        "main",
        "test",
        "demo",
        "save_nnp",
        "convert_weights",
        "pointdet.__main__",
        "pointdet.data.shapes.__main__",
    },
    {"pointdet.programs"},
    {"pointdet.training"},
    {"pointdet.evaluation", "pointdet"},
    {"pointdet.inference", "pointdet.conversion"},
    {"pointdet.export"},
    {"pointdet.model"},
    {"pointdet.detectors", "pointdet.data"},  # the codec is handed to the loader
    {"pointdet.weights", "pointdet.drawing", "pointdet.codec", "pointdet.suppression", "pointdet.runtime"},
    {"pointdet.backbones", "pointdet.structures", "pointdet.ranks"},
    {
        "pointdet.ops",
        "pointdet.config",
        "pointdet.geometry",
        "pointdet.files",
        "pointdet.cuda",
        "pointdet.processor",
        "pointdet.available_memory",
    },
    {"pointdet.affinity", "pointdet.arrays", "pointdet.errors", "pointdet.launcher", "pointdet.stop_request"},
)
LAYER = {package: -number for number, layer in enumerate(LAYERS) for package in layer}

NUMPY_MODULES = (
    "pointdet",
    "pointdet.affinity",
    "pointdet.arrays",
    "pointdet.available_memory",
    "pointdet.codec",
    "pointdet.errors",
    "pointdet.files",
    "pointdet.geometry",
    "pointdet.structures",
    "pointdet.suppression",
    "pointdet.stop_request",
    "pointdet.config",
    "pointdet.config.*",
    "pointdet.data",
    "pointdet.data.*",
    "pointdet.detectors.common.heatmaps",
    "pointdet.detectors.*.codec",
)
# The loader's worker processes import the main module again: these may import NNabla inside functions only.
MAIN_MODULES = (
    "main",
    "test",
    "demo",
    "save_nnp",
    "convert_weights",
    "pointdet.__main__",
    "pointdet.programs.*",
)


def package(module):
    """pointdet.data.coco -> pointdet.data. The modules right below pointdet are packages of their own, and so is
    every `__main__`, which is a script.
    """
    return module if module.endswith(".__main__") else ".".join(module.split(".")[:2])


def folder(module, modules):
    """pointdet.data.coco -> pointdet.data, pointdet.ops.cpu.blas -> pointdet.ops.cpu."""
    is_package = modules[module].path.name == "__init__.py"
    return module if is_package or package(module) == module else module.rpartition(".")[0]


def own_imports(module, modules):
    """The modules of src that this one imports."""
    return {name for name in module.imports if name in modules}


def matching(modules, patterns):
    return [name for name in modules if any(fnmatch(name, pattern) for pattern in patterns)]


def assert_no_circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_every_package_has_a_layer(modules):
    assert {package(name) for name in modules} == set(LAYER)


def test_imports_run_down(modules):
    wrong = [
        f"{name} imports {other}"
        for name, module in modules.items()
        for other in own_imports(module, modules)
        if package(name) != package(other) and LAYER[package(other)] >= LAYER[package(name)]
    ]
    assert not wrong


def test_no_circle_of_modules(modules):
    assert_no_circle({name: own_imports(module, modules) for name, module in modules.items()})


def test_no_circle_of_folders(modules):
    graph = {}
    for name, module in modules.items():
        here = folder(name, modules)
        others = {folder(other, modules) for other in own_imports(module, modules)}
        graph.setdefault(here, set()).update(others - {here})
    assert_no_circle(graph)


def test_circles_are_seen(modules):
    """Also one that is closed inside a function, or by an import for types."""
    assert "pointdet.inference.predictor" in modules["pointdet"].imports
    assert "pointdet.model.restore" in modules["pointdet.inference.predictor"].imports
    with pytest.raises(pytest.fail.Exception, match="a -> b -> a|b -> a -> b"):
        assert_no_circle({"a": {"b"}, "b": {"a"}})


def test_numpy_modules_name_no_nnabla(modules):
    """Followed through every import that is executed, also those inside functions."""
    wrong = []
    for start in matching(modules, NUMPY_MODULES):
        if start == "pointdet":  # whose `Predictor` is imported on first use
            continue
        reached, todo = set(), [start]
        while todo:
            name = todo.pop()
            reached.add(name)
            imports = modules[name].imports_at_run_time
            if any(target.split(".")[0] in ("nnabla", "nnabla_ext") for target in imports):
                wrong.append(f"{start} reaches nnabla through {name}")
            parents = {name.rpartition(".")[0]} - {"pointdet", ""}
            todo += ({target for target in imports if target in modules} | parents) - reached
    assert not wrong


def test_numpy_modules_and_programs_run_without_nnabla(modules):
    """As a loader's worker process imports them."""
    names = matching(modules, NUMPY_MODULES) + matching(modules, MAIN_MODULES)
    names.remove("pointdet.programs.from_flags")  # which the programs import inside functions
    code = f"import sys, importlib; [importlib.import_module(name) for name in {names}]"
    code += "; sys.exit('nnabla' in sys.modules)"
    source = modules["pointdet"].path.parents[1]
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=source, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr or "nnabla was imported"


def test_importing_any_module_prints_nothing(modules):
    names = [name for name in modules if name.startswith("pointdet")]
    code = f"import importlib; [importlib.import_module(name) for name in {names}]"
    source = modules["pointdet"].path.parents[1]
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=source, capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
