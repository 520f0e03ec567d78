# SPDX-License-Identifier: Apache-2.0
"""Settings of foreign files: those of VOC and COCO for their classes only, and what is assumed is listed."""

import re
from pathlib import Path

import networks
import numpy as np
import pytest
import tiny
import torch_writer

from pointdet.config.load import override
from pointdet.config.schema import InputConfig
from pointdet.conversion.export_pytorch import export_pytorch
from pointdet.conversion.import_published import import_arrays, import_published
from pointdet.errors import PointDetError
from pointdet.weights import class_names, plain_file
from pointdet.weights.naming import ctdet, mmdetection, resnet
from pointdet.weights.naming.catalogue import official, to_published
from pointdet.weights.naming.names import Names, prefixed
from pointdet.weights.published import with_swapped_heads

NARROW = ("model.width=0.125",)
SOURCE = Path("x.pth")


def ours(count, *overrides):
    """Parameters of a narrow ResNet-18 with sizes of several cells, by our paths."""
    config = override(networks.config(model={"head_channels": 8}), [*NARROW, *overrides])
    arrays = tiny.parameters(tiny.model(config, tuple(map(str, range(count)))))
    for name in arrays:
        if name.endswith("wh_final/conv/b"):
            arrays[name] = np.float32([6, 9])
    return config, arrays


def foreign(count, *overrides):
    """The same by the keys of official CenterNet or CornerNet."""
    config, arrays = ours(count, *overrides)
    return to_published(arrays, official(config.model, config.detector.name))


def listed(tmp_path, names):
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    return str(tmp_path / "names.txt")


@pytest.mark.parametrize("system", ["official CenterNet", "the NNabla example's CenterNet"])
def test_settings_of_voc_for_its_classes_only(tmp_path, system):
    arrays = foreign(20) if system == "official CenterNet" else ours(20)[1]
    voc = import_arrays(arrays, SOURCE, overrides=NARROW)
    assert voc.system.title == system and voc.class_names == class_names.VOC
    assert (voc.config.input.height, voc.config.input.mean[0]) == (384, 0.485)
    assert voc.config.dataset.dataset == "pascal"
    own = import_arrays(arrays, SOURCE, listed(tmp_path, map(str, range(20))), overrides=NARROW)
    assert own.config.input == InputConfig() and own.config.dataset.dataset == "custom"
    assert not own.config.test.keep_resolution and not own.report.per_class
    turned = import_arrays(arrays, SOURCE, listed(tmp_path, class_names.VOC[::-1]), overrides=NARROW)
    assert turned.config.input == voc.config.input and turned.config.dataset.dataset == "custom"


def test_settings_of_coco_for_its_classes_only(tmp_path):
    arrays = foreign(80)
    coco = import_arrays(arrays, SOURCE, overrides=NARROW)
    assert coco.config.test.keep_resolution and coco.config.dataset.dataset == "coco"
    own = import_arrays(arrays, SOURCE, listed(tmp_path, map(str, range(80))), overrides=NARROW)
    assert not own.config.test.keep_resolution and own.config.dataset.dataset == "custom"


def test_corner_detectors_of_twenty_classes(tmp_path):
    arrays = foreign(20, "detector.name=cornernet")
    voc = import_arrays(arrays, SOURCE, overrides=NARROW)
    own = import_arrays(arrays, SOURCE, listed(tmp_path, map(str, range(20))), overrides=NARROW)
    assert voc.config.input.mean[0] == 0.485 and own.config.input.mean == InputConfig().mean


def test_what_is_assumed_is_printed_with_its_flag():
    """The flags can be used as they are printed."""
    imported = import_arrays(foreign(20), SOURCE, overrides=NARROW)
    lines = [line.split(maxsplit=1)[1] for line in imported.describe().splitlines() if "  assumed" in line]
    shown = [re.split(r"\s{2,}", line) for line in lines]
    assert shown[0] == ["classes of VOC, by their number", "--classes FILE"]
    assert [text for text, _ in shown[1:]] == [
        "input height 384", "input width 384", "colour order bgr", "mean [0.485, 0.456, 0.406] of bgr",
        "std [0.229, 0.224, 0.225] of bgr",
    ]  # fmt: skip
    values = {"PIXELS": "256", "[N,N,N]": "[0.5,0.5,0.5]"}
    given = [flag.removeprefix("--set ") for _, flag in shown[1:]]
    given = [f"{key}={values.get(value, value)}" for key, _, value in (text.partition("=") for text in given)]
    changed = import_arrays(foreign(20), SOURCE, "voc", overrides=[*NARROW, *given])
    settings = changed.config.input
    assert (settings.height, settings.width, settings.colour_order) == (256, 256, "rgb")
    assert settings.mean == settings.std == (0.5, 0.5, 0.5)
    assert not changed.settings.assumed and "assumed" not in changed.describe()


HEADS = {  # system -> overrides of the network
    "official CenterNet": (),
    "two stacks": ("model.arch=hourglass", "model.num_layers=104", "model.hourglass_levels=2"),
    "mmdetection's CenterNet": ("model.arch=resdcn",),
}


def mmdetections(arrays):
    """The arrays of a `resdcn` by mmdetection's keys; its deformable convolutions have no bias."""
    rules = prefixed("backbone.", resnet.trunk(bottleneck=False)) + mmdetection.UPSAMPLING
    names = Names(rules + Names(ctdet.heads(0)).renamed(*mmdetection.CTDET_HEADS).rules)
    arrays = {name: array for name, array in arrays.items() if not name.endswith("deform/conv/b")}
    return to_published(arrays, names)


@pytest.mark.parametrize("system", HEADS)
def test_exchanged_heads_are_recognised_for_every_naming(tmp_path, system):
    config, arrays = ours(3, *HEADS[system])

    def keyed(arrays):
        return (
            mmdetections(arrays) if "mm" in system else to_published(arrays, official(config.model, "ctdet"))
        )

    def imported(arrays, swap_heads):
        flags = [*NARROW, "input.height=64", "input.width=64"]
        return import_arrays(keyed(arrays), SOURCE, listed(tmp_path, "abc"), swap_heads, flags)

    with pytest.raises(PointDetError, match="x.pth seem to be exchanged, .* --swap_heads yes"):
        imported(with_swapped_heads(arrays), "ask")
    good, mended = imported(arrays, "ask"), imported(with_swapped_heads(arrays), "yes")
    unchanged = imported(with_swapped_heads(arrays), "no")
    assert not good.report.misfits and set(mended.arrays) == set(good.arrays)
    for name, array in good.arrays.items():
        np.testing.assert_array_equal(mended.arrays[name], array)
        other = name.replace("wh_", "?").replace("reg_", "wh_").replace("?", "reg_")
        np.testing.assert_array_equal(unchanged.arrays[other], array)


def test_exchanged_heads_in_our_own_export(tmp_path):
    """Its names are those that we wrote, so that nothing is guessed from the values; without its notes they are."""
    config, arrays = ours(3)
    model = tiny.model(config, ("a", "b", "c"))
    for name, variable in model.detector.parameters().items():
        variable.d = with_swapped_heads(arrays)[name]
    export_pytorch(tiny.write_checkpoint(tmp_path / "best", model), tmp_path / "x.safetensors")
    found = import_published(tmp_path / "x.safetensors").arrays
    np.testing.assert_array_equal(found["reg_final/conv/b"], [6, 9])
    mended = import_published(tmp_path / "x.safetensors", swap_heads="yes").arrays
    np.testing.assert_array_equal(mended["wh_final/conv/b"], [6, 9])
    plain_file.write(tmp_path / "bare.npz", plain_file.read(tmp_path / "x.safetensors"), {})
    with pytest.raises(PointDetError, match="bare.npz seem to be exchanged"):
        import_published(tmp_path / "bare.npz", listed(tmp_path, "abc"), overrides=NARROW)


def test_a_part_of_a_checkpoint(tmp_path):
    config, _ = ours(3)
    folder = tiny.write_checkpoint(tmp_path / "best", tiny.model(config, ("a", "b", "c")))
    with pytest.raises(
        PointDetError, match="parameters.h5 is a part of the checkpoint .*best, which has its"
    ):
        import_published(folder / "parameters.h5")


WRONG = {
    "NaN": ("layer1.0.conv1.weight", lambda a: a * np.nan, "has values that are NaN or infinite"),
    "infinite": ("hm.2.bias", lambda a: a + np.inf, "has values that are NaN or infinite"),
    "variance": ("layer2.0.bn1.running_var", lambda a: -a, "has negative variances"),
}


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_wrong_values_of_every_kind_of_file(tmp_path, suffix, fault):
    key, change, words = WRONG[fault]
    arrays = foreign(20)
    arrays[key] = np.asarray(change(arrays[key]), np.float32)
    path = tmp_path / f"x{suffix}"
    if suffix == ".pth":
        file = torch_writer.File("zip")
        path.write_bytes(file.written({name: file.tensor(array) for name, array in arrays.items()}))
    else:
        plain_file.write(path, arrays, {})
    with pytest.raises(PointDetError, match=f"^{key} of .*x{suffix} {words}"):
        import_published(path, overrides=NARROW)


@pytest.mark.parametrize("shape", [(4, 4), (16, 1), (1, 16)])
def test_a_normalisation_of_another_rank(tmp_path, shape):
    """The number of values is right."""
    arrays = foreign(20)
    arrays["layer2.0.bn1.weight"] = arrays["layer2.0.bn1.weight"].reshape(shape)
    imported = import_arrays(arrays, SOURCE, overrides=NARROW)
    assert [name for name, _ in imported.report.misshaped] == ["res2/layer1/basicblock1/bn/gamma"]
    with pytest.raises(PointDetError, match="x.pth does not fit in 1 parameters"):
        imported.save(tmp_path / "checkpoint")
