# SPDX-License-Identifier: Apache-2.0
"""Import of published files: golden outputs, every key is reported, classes, misfits, export to PyTorch names."""

import json
import shutil
from pathlib import Path

import networks
import numpy as np
import pytest
from torch_writer import File

from pointdet.config.load import override
from pointdet.conversion.export_pytorch import export_pytorch
from pointdet.conversion.import_published import import_arrays, import_published
from pointdet.detectors import catalogue
from pointdet.errors import PointDetError
from pointdet.model.restore import restore
from pointdet.ops.layers import parameters_without_values
from pointdet.ops.mode import Mode
from pointdet.runtime import start
from pointdet.weights import class_names, h5_file, plain_file
from pointdet.weights.fit import fit_all
from pointdet.weights.naming.catalogue import official, to_published
from pointdet.weights.systems import UNUSED

COUNTER = "num_batches_tracked"
CTDET = {"heatmap": "hm", "size": "wh", "offset": "reg"}


def write(path, arrays, layout="zip", prefix="module.", wrapper="state_dict"):
    """Write a weight file of PyTorch."""
    file = File(layout)
    state = {prefix + key: file.tensor(array) for key, array in arrays.items()}
    path.write_bytes(file.written({"epoch": 140, wrapper: state} if wrapper else state))
    return path


def published(table, mode="B"):
    """All arrays of a network of PyTorch code."""
    counters = {key: np.array(7) for key, _ in table["parameters"] if key.endswith(COUNTER)}
    return networks.published(table, mode) | counters


def like(shapes):
    """Arrays of these shapes that take no memory."""
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes}


GOLDEN = {
    "res_18": ("networks.json", "res18", "zip", ".safetensors"),
    "res_50": ("networks.json", "res50", "legacy", ".npz"),
    "resdcn_18": ("networks_deformable.json", "resdcn18", "legacy", ".npz"),
    "dlav0_34": ("networks.json", "dlav0", "legacy", ".safetensors"),
    "dla_34": ("networks_deformable.json", "dla34", "zip", ".npz"),
}


@pytest.mark.parametrize("network", GOLDEN)
def test_golden_outputs_there_and_back(golden, tmp_path, network):
    """PyTorch -> checkpoint -> golden outputs, and back to PyTorch's keys with the same bits, except unused arrays."""
    file, name, layout, suffix = GOLDEN[network]
    arrays, theirs = golden(f"network_{name}.npz"), published(golden(file)[name])
    published_weights = import_published(write(tmp_path / "model.pth", theirs, layout))
    assert not published_weights.report.misfits
    published_weights.save(tmp_path / "checkpoint")
    model = restore(tmp_path / "checkpoint", start())
    assert model.class_names == class_names.COCO and model.config == published_weights.config
    names = {ours: f"B/{head}" for ours, head in CTDET.items()}
    networks.assert_golden(model.detector, arrays, Mode(False, kernels="blas"), names)
    back = tmp_path / f"back{suffix}"
    export_pytorch(tmp_path / "checkpoint", back)
    found = plain_file.read(back)
    assert set(found) == {key for key in theirs if not UNUSED.fullmatch(key)}
    for key, array in found.items():
        np.testing.assert_array_equal(array, theirs[key], strict=True)


@pytest.mark.parametrize("channel_last", [False, True])
@pytest.mark.parametrize("name", ["sony18", "sony_dlav0"])
def test_golden_outputs_of_the_nnabla_example(golden, tmp_path, name, channel_last):
    """In both layouts. The NHWC files have four input channels."""
    table, expected = golden("networks.json")[name], golden(f"network_{name}.npz")
    arrays = {
        key: networks.formula(key, shape, key.split("/")[-1], "B/", table["gain_B"])
        for key, shape in table["parameters"]
    }
    if channel_last:
        arrays = {key: a.transpose(0, 2, 3, 1) if a.ndim == 4 else a for key, a in arrays.items()}
        arrays["conv1/conv/W"] = np.pad(arrays["conv1/conv/W"], ((0, 0), (0, 0), (0, 0), (0, 1)))
    h5_file.write(tmp_path / "x.h5", {key: (array, True) for key, array in arrays.items()})
    published_weights = import_published(tmp_path / "x.h5")
    assert not published_weights.report.misfits and set(published_weights.report.unused) == {
        "fc/fc/conv/W",
        "fc/fc/conv/b",
    }
    published_weights.save(tmp_path / "checkpoint")
    model = restore(tmp_path / "checkpoint", start())
    assert model.class_names == class_names.VOC and model.config.dataset.dataset == "pascal"
    assert model.config.input.height == 384 and model.config.input.mean == (0.485, 0.456, 0.406)
    assert not model.detector.parameters()["conv1/bn/mean"].need_grad
    names = {ours: f"B/{head}" for ours, head in CTDET.items()}
    networks.assert_golden(model.detector, expected, Mode(False, kernels="blas"), names)


CORNERS = {
    f"{corner}_{kind}": f"{short}_{head}"
    for short, corner in (("tl", "top_left"), ("br", "bottom_right"))
    for kind, head in (("heatmap", "heat"), ("tag", "tag"), ("offset", "regr"))
}
SIMPLE = {
    f"{corner}_{kind}": f"{head}_{short}"
    for short, corner in (("tl", "top_left"), ("br", "bottom_right"))
    for kind, head in (("heatmap", "hmap"), ("tag", "embd"), ("offset", "regs"))
}
TRIPLETS = CORNERS | {"centre_heatmap": "ct_heat", "centre_offset": "ct_regr"}
HOURGLASSES = {  # table of parameters, arrays, outputs
    "CenterNet": ("network_hourglass104.json", None, "hourglass104", CTDET),
    "CornerNet": ("networks_cornernet.json", "hourglass104", "cornernet_hourglass104", CORNERS),
    "simple 52": ("networks_cornernet.json", "simple52", "cornernet_simple52", SIMPLE),
    "simple 104": ("networks_cornernet.json", "simple104", "cornernet_simple104", SIMPLE),
    "triplets 52": ("networks_triplet.json", "triplet52", "triplet52", TRIPLETS),
    "triplets 104": ("networks_triplet.json", "triplet104", "triplet104", TRIPLETS),
}
FILES = {"simple 52": ("zip", ""), "triplets 52": ("legacy", "module.")}  # layout, prefix


@pytest.mark.parametrize("network", HOURGLASSES)
def test_golden_outputs_of_hourglasses(golden, tmp_path, network):
    """Every stack. Networks of one stack (100 million parameters) are also written to a file and read again."""
    file, name, expected, outputs = HOURGLASSES[network]
    table, arrays = golden(file)[name] if name else golden(file), golden(f"network_{expected}.npz")
    if network in FILES:
        layout, prefix = FILES[network]
        source, folder = tmp_path / "model.pkl", tmp_path / "checkpoint"
        import_published(write(source, published(table), layout, prefix, wrapper="")).save(folder)
        source.unlink()
        config, found = restore(folder, start()).config, h5_file.read(folder / "parameters.h5")
        shutil.rmtree(folder)
    else:
        weights = import_arrays(published(table), Path("x.pth"))
        assert not weights.report.misfits
        config, found = weights.config, weights.arrays
    # A restored network has only the heads of the last stack; a training has those of every stack.
    detector = catalogue.build(config, 80)
    with parameters_without_values():
        detector.make_parameters(128)
    fit_all(found, detector.parameters(), False, detector.class_bias, "it")
    names = {ours: f"B/s{{}}/{theirs}" for ours, theirs in outputs.items()}
    stacks = networks.assert_golden(detector, arrays, Mode(False, kernels="blas"), names)
    assert len(stacks) == (1 if "52" in network else 2)
    assert all(set(stack) == set(outputs) for stack in stacks)


OFFICIAL = {  # file, table -> backbone, depth, detector, channels of the heads, unused keys
    "res_34": ("networks_more.json", "ctdet_res_34_head_conv64", "resnet", 34, "ctdet", 64, 0),
    "res_50": ("networks.json", "res50", "resnet", 50, "ctdet", 64, 0),
    "res_101": ("networks_more.json", "ctdet_res_101_head_conv64", "resnet", 101, "ctdet", 64, 0),
    "res_152": ("networks_more.json", "ctdet_res_152_head_conv64", "resnet", 152, "ctdet", 64, 0),
    "dlav0_34": ("networks.json", "dlav0", "dlav0", 34, "ctdet", 256, 12),
    "dla_34": ("networks_deformable.json", "dla34", "dla", 34, "ctdet", 256, 10),
    "hourglass": ("network_hourglass104.json", None, "hourglass", 104, "ctdet", 256, 0),
    "CornerNet": ("networks_cornernet.json", "hourglass104", "hourglass", 104, "cornernet", 256, 0),
    "simple 52": ("networks_cornernet.json", "simple52", "hourglass", 52, "cornernet", 256, 0),
    "simple 104": ("networks_cornernet.json", "simple104", "hourglass", 104, "cornernet", 256, 0),
    "triplets 52": ("networks_triplet.json", "triplet52", "hourglass", 52, "triplet", 256, 0),
    "triplets 104": ("networks_triplet.json", "triplet104", "hourglass", 104, "triplet", 256, 0),
}


@pytest.mark.parametrize("network", OFFICIAL)
def test_every_key_is_used_or_listed(golden, network):
    file, name, arch, layers, detector, channels, idle = OFFICIAL[network]
    table = golden(file)[name] if name else golden(file)
    shapes = [(key, tuple(shape)) for key, shape in table["parameters"]]
    published_weights = import_arrays(like(shapes), Path("x.pth"))
    report, config = published_weights.report, published_weights.config
    assert not report.misfits and len(report.kept) == len(published_weights.trainable)
    assert len(report.kept) + len(report.unused) == len(shapes)
    assert sum(not key.endswith(COUNTER) for key in report.unused) == idle
    assert (config.model.arch, config.model.num_layers) == (arch, layers)
    assert (config.detector.name, config.model.head_channels) == (detector, channels)
    assert config.input.height == (512 if detector == "ctdet" else 511)
    assert config.input.colour_order == "bgr" and config.test.keep_resolution
    assert published_weights.class_names == class_names.COCO
    if detector != "ctdet":
        simple = network.startswith("simple")
        assert config.detector.published and config.test.flip != simple
        assert config.detector.merge_exponent == (10 if simple else 0)
    lines = published_weights.describe().splitlines()
    assert ["kept", str(len(report.kept)), "parameters"] in [line.split() for line in lines]


NARROW = ("model.width=0.125",)


def small():
    """The arrays of a narrow ResNet-18 of the official code, to be imported with NARROW."""
    config = override(networks.config(model={"head_channels": 8}), NARROW)
    detector = catalogue.build(config, 80)
    with parameters_without_values():
        detector.make_parameters(32)
    ours = {name: np.zeros(v.shape, np.float32) for name, v in detector.parameters().items()}
    return to_published(ours, official(config.model, "ctdet"))


def test_misfits_are_listed_and_stop(tmp_path):
    arrays = small()
    del arrays["layer2.0.bn1.weight"]
    arrays["layer1.0.conv1.weight"] = np.zeros((8, 8, 1, 1), np.float32)
    arrays["hps.0.weight"] = np.zeros((8, 32, 3, 3), np.float32)
    published_weights = import_arrays(arrays, Path("x.pth"), overrides=NARROW)
    assert published_weights.report.table().splitlines()[1:] == [
        "  missing     res2/layer1/basicblock1/bn/gamma  (1, 16, 1, 1)",
        "  misshaped   res1/layer1/basicblock1/conv/W  (8, 8, 1, 1) in the file, (8, 8, 3, 3) in the network",
        "  unexpected  hps.0.weight  (8, 32, 3, 3)",
    ]
    with pytest.raises(PointDetError, match=r"x.pth does not fit in 3 parameters, .*--partial"):
        published_weights.save(tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())
    published_weights.save(tmp_path / "checkpoint", partial=True)
    written = h5_file.read(tmp_path / "checkpoint" / "parameters.h5")
    assert (written["res2/layer1/basicblock1/bn/gamma"] == 1).all()  # as in a new network
    assert written["res1/layer1/basicblock1/conv/W"].std() > 0.01
    assert not written["res1/layer1/basicblock2/conv/W"].any()


def test_other_classes(tmp_path):
    """Classes that the file has by name keep their rows, others are initialised at random."""
    arrays = small()
    arrays["hm.2.bias"] = np.arange(80, dtype=np.float32)
    arrays["hm.2.weight"] = np.broadcast_to(
        np.arange(80, dtype=np.float32)[:, None, None, None], (80, 8, 1, 1)
    )
    (tmp_path / "names.txt").write_text("unicorn\nzebra\n\nperson\n", encoding="utf-8")
    published_weights = import_arrays(arrays, Path("x.pth"), str(tmp_path / "names.txt"), overrides=NARROW)
    assert (
        published_weights.report.per_class == ("hm_final/conv/W", "hm_final/conv/b")
        and not published_weights.report.misfits
    )
    published_weights.save(tmp_path / "checkpoint")
    model = restore(tmp_path / "checkpoint", start())
    assert model.class_names == ("unicorn", "zebra", "person") and model.config.dataset.dataset == "custom"
    parameters = model.detector.parameters()
    np.testing.assert_allclose(parameters["hm_final/conv/b"].d, [-2.19, 22, 0])
    assert (parameters["hm_final/conv/W"].d[1] == 22).all() and parameters["hm_final/conv/W"].d[0].std() > 0


@pytest.mark.parametrize("shape", [(), (1,), (2, 2), (1, 1, 1, 1)])
@pytest.mark.parametrize(
    ("file", "name"), [("networks.json", "dlav0"), ("networks_deformable.json", "resdcn18")]
)
def test_shapes_that_make_no_sense(golden, tmp_path, file, name, shape):
    (tmp_path / "names.txt").write_text("one", encoding="utf-8")
    table = [(key, shape) for key, _ in golden(file)[name]["parameters"]]
    published_weights = import_arrays(like(table), Path("x.pth"), str(tmp_path / "names.txt"))
    assert published_weights.report.misfits
    with pytest.raises(PointDetError, match="x.pth does not fit in .* parameters"):
        published_weights.save(tmp_path / "checkpoint")


def test_names_of_classes(tmp_path):
    arrays = small()
    arrays["hm.2.weight"], arrays["hm.2.bias"] = arrays["hm.2.weight"][:3], arrays["hm.2.bias"][:3]
    with pytest.raises(PointDetError, match="x.pth has 3 classes without names; add --classes FILE"):
        import_arrays(arrays, Path("x.pth"))
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\n", encoding="utf-8")
    published_weights = import_arrays(
        arrays, Path("x.pth"), str(names), overrides=[*NARROW, "input.height=256"]
    )
    assert published_weights.class_names == ("a", "b", "c") and not published_weights.report.per_class
    assert published_weights.config.input.height == 256
    for text in ("", "a\na\n"):
        names.write_text(text, encoding="utf-8")
        with pytest.raises(PointDetError, match="names.txt names no class or one class twice"):
            import_arrays(arrays, Path("x.pth"), str(names))
    with pytest.raises(PointDetError, match="--classes nothing.txt is neither coco, voc nor a text file"):
        import_arrays(arrays, Path("x.pth"), "nothing.txt")


def test_what_is_no_detector(golden):
    torchvision = like(golden("published_keys.json")["torchvision_resnet18"])
    with pytest.raises(
        PointDetError, match="x.pth is a classifier, not a detector; training reads such files"
    ):
        import_arrays(torchvision, Path("x.pth"))
    with pytest.raises(PointDetError, match="the system that wrote x.pth is unknown .keys: a, b."):
        import_arrays(like([("a", (1,)), ("b", (2,))]), Path("x.pth"))


def test_nothing_is_overwritten_nor_left_half_written(tmp_path, monkeypatch):
    published_weights = import_arrays(small(), Path("x.pth"), overrides=NARROW)
    (tmp_path / "here").mkdir()
    with pytest.raises(PointDetError, match="here exists; give another name or remove it"):
        published_weights.save(tmp_path / "here")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5_file, "write", full)
    with pytest.raises(PointDetError, match="cannot write .*checkpoint .No space left on device"):
        published_weights.save(tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_the_checkpoint_says_where_it_comes_from(tmp_path):
    published_weights = import_arrays(small(), Path("folder/ctdet_coco_res18.pth"), overrides=NARROW)
    published_weights.save(tmp_path / "checkpoint")
    state = json.loads((tmp_path / "checkpoint/state.json").read_text(encoding="utf-8"))
    assert state["source"] == {"file": "ctdet_coco_res18.pth", "system": "official CenterNet"}
