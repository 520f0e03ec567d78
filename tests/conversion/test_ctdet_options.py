# SPDX-License-Identifier: Apache-2.0
"""Files of official CenterNet with other heads: --cat_spec_wh and --not_reg_offset."""

from pathlib import Path

import networks
import numpy as np
import pytest

from pointdet.config.load import override
from pointdet.conversion.export_pytorch import export_pytorch
from pointdet.conversion.import_published import import_arrays
from pointdet.detectors import catalogue
from pointdet.model.restore import restore
from pointdet.ops.layers import parameters_without_values
from pointdet.runtime import start
from pointdet.weights import plain_file
from pointdet.weights.naming.catalogue import official, to_published

NARROW = ("model.width=0.125",)
ARCHITECTURES = {"resnet": 18, "hourglass": 104}


def file(arch, *settings):
    """Random arrays of a narrow network of the official code, to be imported with NARROW."""
    model = {"arch": arch, "num_layers": ARCHITECTURES[arch], "head_channels": 8, "hourglass_levels": 1}
    config = override(networks.config(model=model), [*NARROW, *settings])
    detector = catalogue.build(config, 80)
    with parameters_without_values():
        detector.make_parameters(32)
    rng = np.random.default_rng(0)
    ours = {
        name: np.float32(rng.uniform(-0.1, 0.1, v.shape) + name.endswith(("gamma", "var")))
        for name, v in detector.parameters().items()
    }
    return to_published(ours, official(config.model, "ctdet"))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_size_for_each_class(tmp_path, arch):
    arrays = file(arch, "detector.size_per_class=true")
    found = import_arrays(arrays, Path("x.pth"), overrides=NARROW)
    assert found.config.detector.size_per_class and not found.report.misfits
    found.save(tmp_path / "checkpoint")
    model = restore(tmp_path / "checkpoint", start())
    maps = model.network()(np.zeros((1, 128, 128, 3), np.uint8))
    assert maps["size"].shape == (1, 160, 32, 32)
    export_pytorch(tmp_path / "checkpoint", tmp_path / "x.npz")
    back = plain_file.read(tmp_path / "x.npz")
    assert set(back) == set(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_offset_head(tmp_path, arch):
    arrays = {key: array for key, array in file(arch).items() if not key.startswith("reg.")}
    found = import_arrays(arrays, Path("x.pth"), overrides=NARROW)
    assert "without an offset head" in found.describe() and not found.report.misfits
    found.save(tmp_path / "checkpoint")
    maps = restore(tmp_path / "checkpoint", start()).network()(np.zeros((1, 128, 128, 3), np.uint8))
    assert (maps["offset"] == 0.5).all() and np.ptp(maps["size"]) > 0


def test_a_part_of_an_offset_head_is_missing():
    arrays = file("resnet")
    del arrays["reg.2.bias"]
    report = import_arrays(arrays, Path("x.pth"), overrides=NARROW).report
    assert [path for path, _ in report.missing] == ["reg_final/conv/b"]
