# SPDX-License-Identifier: Apache-2.0
"""Systems are recognised by the keys of their files, and have the settings of their networks."""

import networks
import pytest

from pointdet.detectors import catalogue
from pointdet.ops.layers import parameters_without_values
from pointdet.weights.naming.names import Names
from pointdet.weights.systems import IMAGENET, UNUSED, recognise


def shapes_of(entries):
    return {key: tuple(shape) for key, shape in entries}


@pytest.mark.parametrize("stacks", [1, 2])
def test_triplets(golden, stacks):
    system = recognise(shapes_of(golden("networks_triplet.json")[f"triplet{52 * stacks}"]["parameters"]))
    assert system.title == "CenterNet with keypoint triplets" and system.published and system.classes == 80
    assert system.settings["detector"] == {"name": "triplet"}
    model = system.settings["model"]
    assert (model["arch"], model["num_layers"], model["head_channels"]) == ("hourglass", 52 * stacks, 256)
    assert system.settings["input"] == {"height": 511, "width": 511}
    assert system.settings["test"] == {"keep_resolution": True, "vis_thresh": 0.5, "flip": True}


def fork(channels, classes):
    """Key -> shape of all parameters in the HRNet fork of CenterNet with keypoint triplets."""
    stem = {"conv1": "pre.0", "bn1": "pre.1", "conv2": "pre.2", "bn2": "pre.3"}
    entries = {}
    for key, shape in networks.hrnet_parameters(channels).items():
        layer, _, leaf = key.rpartition(".")
        if layer.startswith(("conv", "bn", "layer", "transition", "stage")):
            entries[f"{stem.get(layer, layer)}.{leaf}"] = shape

    def unit(conv, norm, out, into, kernel):
        entries[f"{conv}.weight"] = [out, into, kernel, kernel]
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            entries[f"{norm}.{leaf}"] = [out]
        entries[f"{norm}.num_batches_tracked"] = []

    joined = 15 * channels
    unit("cnvs.conv", "cnvs.bn", 256, joined, 3)
    for short in ("tl", "br", "ct"):
        module = f"{short}_cnvs"
        corner = short != "ct"
        for k in (1, 2):
            unit(f"{module}.p{k}_conv1.conv", f"{module}.p{k}_conv1.bn", 128, 256, 3)
            if corner:
                unit(f"{module}.look_conv{k}.conv", f"{module}.look_conv{k}.bn", 128, 256, 3)
                entries[f"{module}.P{k}_look_conv.weight"] = [128, 128, 3, 3]
        unit(f"{module}.p_conv1", f"{module}.p_bn1", 256, 128, 3)
        unit(f"{module}.conv1", f"{module}.bn1", 256, 256, 1)
        unit(f"{module}.conv2.conv", f"{module}.conv2.bn", 256, 256, 3)
        for branch, out in (("heats", classes), ("tags", 1), ("regrs", 2)):
            if corner or branch != "tags":
                layer = f"{short}_{branch}"
                entries |= {f"{layer}.0.conv.weight": [joined, 256, 3, 3], f"{layer}.0.conv.bias": [joined]}
                entries |= {f"{layer}.1.weight": [out, joined, 1, 1], f"{layer}.1.bias": [out]}
    return entries


def test_hrnet_fork_of_the_triplets():
    entries = fork(18, 4)
    assert len(entries) == 1986
    system = recognise(shapes_of(entries.items()))
    assert system.classes == 4
    assert system.settings["model"] == {
        "arch": "hrnet", "num_layers": 18, "head_channels": 270, "feature_channels": 256,
    }  # fmt: skip
    assert system.settings["input"] == {"height": 512, "width": 512}
    assert isinstance(system.names, Names)
    paths = [path for key in entries if (path := system.names.ours(key))]
    assert len(set(paths)) == len(paths)
    without_path = [key for key in entries if system.names.ours(key) is None]
    assert all(UNUSED.fullmatch(key) for key in without_path)
    config = networks.config(model=system.settings["model"], detector={"name": "triplet"})
    detector = catalogue.build(config, 4)
    with parameters_without_values():
        detector.make_parameters(32)
    assert set(detector.parameters()) == set(paths)


@pytest.mark.parametrize(("table", "arch", "depth"), [("sony18", "resnet", 18), ("sony_dlav0", "dlav0", 34)])
@pytest.mark.parametrize("layout", ["parameters", "parameters_nhwc"])
def test_nnabla_example(golden, table, arch, depth, layout):
    system = recognise(shapes_of(golden("networks.json")[table][layout]))
    assert system.names is None and system.classes == 20
    assert (system.settings["model"]["arch"], system.settings["model"]["num_layers"]) == (arch, depth)
    assert not system.settings["model"].get("official_neck")
    assert system.data_settings == {"voc": {"input": {"height": 384, "width": 384, **IMAGENET}}}


def test_unknown_keys():
    assert recognise({}) is None and recognise({"hm.0.weight": (64, 256, 3, 3)}) is None
    assert recognise({"deconv_layers.0.weight": (512, 256, 4, 4)}) is None
