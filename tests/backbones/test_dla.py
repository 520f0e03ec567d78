# SPDX-License-Identifier: Apache-2.0
"""DLAv0-34 and DLA-34 with head against the NNabla example and the official code; parameters; layouts."""

import networks
import nnabla as nn
import numpy as np
import pytest

from pointdet.backbones.catalogue import imagenet_files
from pointdet.detectors import catalogue
from pointdet.errors import PointDetError
from pointdet.ops.mode import Mode
from pointdet.weights.fit import fit
from pointdet.weights.naming.catalogue import official, to_ours

DLA = {"arch": "dlav0", "num_layers": 34, "head_channels": 256}


def built(num_classes, channel_last=False, **model):
    """The detector with its parameters."""
    precision = {"channel_last": channel_last, "mixed_precision": channel_last}
    detector = catalogue.build(
        networks.config(model={**DLA, **model}, mixed_precision=precision), num_classes
    )
    images, colour = nn.Variable((1, 64, 64, 3)), nn.Variable((1, detector.image_channels, 4))
    detector.outputs(images, colour, Mode(False, channel_last), nn.get_current_context())
    return detector


def assert_outputs(detector, arrays, mode):
    names = {"heatmap": f"{mode}/hm", "size": f"{mode}/wh", "offset": f"{mode}/reg"}
    networks.assert_golden(detector, arrays, Mode(training=False), names)


@pytest.mark.parametrize("mode", ["A", "B"])
def test_nnabla_example(golden, mode):
    table, arrays = golden("networks.json")["sony_dlav0"], golden("network_sony_dlav0.npz")
    detector = built(20)
    for key, shape in table["parameters"]:
        if not key.startswith("fc/"):
            salt = "B/" if mode == "B" else ""
            value = networks.formula(key, shape, key.split("/")[-1], salt, table[f"gain_{mode}"])
            detector.parameters()[key].d = value
    assert_outputs(detector, arrays, mode)


@pytest.mark.parametrize("mode", ["A", "B"])
@pytest.mark.parametrize(
    ("model", "tables", "name"),
    [
        ({"official_neck": True}, "networks.json", "dlav0"),
        ({"arch": "dla"}, "networks_deformable.json", "dla34"),
    ],
    ids=["dlav0_34", "dla_34"],
)
def test_official_code(golden, model, tables, name, mode):
    arrays = golden(f"network_{name}.npz")
    assert_outputs(published(golden(tables)[name], mode, model), arrays, mode)


def published(table, mode, model):
    """The detector with the parameters of the official code."""
    detector = built(80, **model)
    names = official(networks.config(model={**DLA, **model}).model, "ctdet")
    report = fit(to_ours(networks.published(table, mode), names), detector.parameters(), False)
    assert not report.skipped + report.new + report.unused
    return detector


def test_errors_are_larger_than_the_noise(golden):
    """Of the network that doubles rounding errors the most: a thousandth in one cell, two channels exchanged."""
    arrays = golden("network_dla34.npz")
    detector = published(golden("networks_deformable.json")["dla34"], "B", {"arch": "dla"})
    for name in ("wh", "reg", "hm/ch3"):
        wrong = arrays[f"B/{name}"].copy()
        wrong.flat[0] += 1.5e-3 * np.abs(wrong).max()
        with pytest.raises(AssertionError):
            assert_outputs(detector, arrays | {f"B/{name}": wrong}, "B")
    weights = detector.parameters()["level3/node1/block1/basicblock2/conv/W"]
    weights.d = weights.d[:, [1, 0, *range(2, weights.shape[1])]]
    with pytest.raises(AssertionError):
        assert_outputs(detector, arrays, "B")


@pytest.mark.parametrize("channel_last", [False, True])
def test_parameters_are_those_of_published_files(golden, channel_last):
    table = golden("networks.json")["sony_dlav0"]
    expected = table["parameters_nhwc"] if channel_last else table["parameters"]
    ours = {name: list(v.shape) for name, v in built(20, channel_last).parameters().items()}
    assert ours == {name: shape for name, shape in expected if not name.startswith("fc/")}


def test_parameter_count():
    """Yu et al., 2018: 15.7 million with 1000 classes. Projections whose output is not used are not built."""
    parameters = built(80).parameters(trainable_only=True)
    base = sum(v.size for name, v in parameters.items() if name.startswith(("conv1/", "level")))
    assert base + 512 * 1000 + 1000 == 15_742_104


def test_parameter_count_with_deformable_convolutions(golden):
    """20.19 million for 80 classes, with the classifier and two projections that are not used."""
    table = golden("networks_deformable.json")["dla34"]["parameters"]
    trainable = [(key, shape) for key, shape in table if "running" not in key and "num_batches" not in key]
    unused = ("base.level3.project.", "base.level4.project.", "base.fc.")
    official = sum(np.prod(shape, dtype=int) for key, shape in trainable if not key.startswith(unused))
    ours = sum(v.size for v in built(80, arch="dla").parameters(trainable_only=True).values())
    assert ours == official == 20_188_892 - 41_728 - 513_000


@pytest.mark.parametrize("arch", ["dlav0", "dla"])
def test_gradients_do_not_depend_on_the_layout(arch):
    networks.assert_layouts_agree({**DLA, "arch": arch, "width": 0.25, "head_channels": 16})


@pytest.mark.parametrize(
    ("arch", "name", "row"),
    [
        ("dlav0", "up2_c/up", [2, 6, 6, 2]),
        ("dla", "ida_up/up_1", [2, 6, 6, 2]),
        ("dla", "ida_up/up_2", [1, 3, 5, 7, 7, 5, 3, 1]),
    ],
)
@pytest.mark.parametrize("channel_last", [False, True])
def test_initial_upsampling_is_bilinear(arch, name, row, channel_last):
    weights = built(2, channel_last, arch=arch, width=0.125).parameters()[f"{name}/deconv/W"].d
    kernel = np.outer(row, row) / 64
    kernels = weights[..., 0] if channel_last else weights[:, 0]
    np.testing.assert_array_equal(kernels, np.broadcast_to(kernel, (8, *kernel.shape)))


@pytest.mark.parametrize("arch", ["dlav0", "dla"])
def test_other_depths_are_refused(arch):
    with pytest.raises(PointDetError, match=f"{arch} has no depth 18; set it to 34"):
        built(2, arch=arch, num_layers=18)


def test_both_use_the_same_imagenet_parameters():
    files, bases = set(), []
    for arch in ("dlav0", "dla"):
        files.add(imagenet_files(networks.config(model={**DLA, "arch": arch}).model, channel_last=True)[0])
        parameters = built(2, arch=arch).parameters()
        bases.append({n: v.shape for n, v in parameters.items() if n.startswith(("conv1/", "level"))})
    assert files == {"dla34_nhwc_imagenet.h5"}
    assert bases[0] == bases[1]
