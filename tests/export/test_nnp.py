# SPDX-License-Identifier: Apache-2.0
"""An exported .nnp file, loaded by NNabla's own loader, has the maps and detections of the network."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import cv2
import nnabla as nn
import numpy as np
import pytest
import tiny
from nnabla.utils.nnp_graph import NnpLoader
from nnabla.utils.save import save

from pointdet.errors import PointDetError
from pointdet.export.nnp import write
from pointdet.inference.predictor import Predictor
from pointdet.model.exported import NnpNetwork
from pointdet.model.restore import restore
from pointdet.ops.mode import Mode
from pointdet.ops.upsampling import upsample_bilinear, upsample_nearest
from pointdet.runtime import start
from pointdet.weights import h5_file

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.draw(tmp_path_factory.mktemp("data"), train=3)


def images(count, height=64, width=64):
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("mixed_precision.channel_last=true",),
        ("mixed_precision.mixed_precision=true", "input.colour_order=rgb"),
        ("model.arch=resdcn",),
        ("model.arch=dla", "model.num_layers=34", "mixed_precision.channel_last=true"),
    ],
    ids=["NCHW", "NHWC", "four channels, RGB", "deformable, NCHW", "deformable, NHWC"],
)
def test_same_maps(tmp_path, data, overrides):
    model = tiny.model(tiny.config(data, "input.width=96", *overrides))
    path = tmp_path / "folder" / "x.nnp"
    write(model, path, batch=2)
    assert sorted(file.name for file in path.parent.iterdir()) == ["x.json", "x.nnp"]
    network = NnpNetwork(path)
    for count in (2, 3):  # the batch size of the file is 2
        pixels = images(count, 64, 96)
        expected, found = model.network()(pixels), network(pixels)
        assert set(found) == set(expected) == {"heatmap", "size", "offset"}
        for name, array in expected.items():
            assert found[name].shape == array.shape and found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5 * np.abs(array).max())
    assert 0 < found["heatmap"].min() and found["heatmap"].max() < 1  # probabilities


def test_upsampling_is_saved_with_its_convention(tmp_path):
    """The networks above have no upsampling by interpolation."""
    x = nn.Variable.from_numpy_array(np.random.default_rng(0).standard_normal((1, 2, 3, 4)))
    y = upsample_bilinear(upsample_nearest(x, 2, Mode(False)), 4, Mode(False))
    network = {"name": "n", "batch_size": 1, "outputs": {"y": y}, "names": {"x": x}}
    save(str(tmp_path / "x.nnp"), {"networks": [network]}, variable_batch_size=False)
    loaded = NnpLoader(str(tmp_path / "x.nnp")).get_network("n")
    loaded.inputs["x"].d = x.d
    for output in (y, loaded.outputs["y"]):
        output.forward()
    np.testing.assert_array_equal(loaded.outputs["y"].d, y.d)


def test_heads_of_earlier_stacks_are_not_exported(tmp_path, data):
    """Only the loss uses them."""
    settings = ("arch=hourglass", "num_layers=104", "hourglass_levels=1", "width=0.0625")
    trained = tiny.model(tiny.config(data, "input.width=63", *(f"model.{setting}" for setting in settings)))
    assert "stack1/hm_final/conv/b" in trained.detector.parameters()
    write(restore(tiny.write_checkpoint(tmp_path / "best", trained), start()), tmp_path / "x.nnp")
    with ZipFile(tmp_path / "x.nnp") as archive:
        (tmp_path / "x.h5").write_bytes(archive.read("parameter.h5"))
    heads = {name.partition("/")[0] for name in h5_file.read(tmp_path / "x.h5") if "hm_" in name}
    assert heads == {"stack2"}
    pixels = images(1, 64, 63)
    for name, array in NnpNetwork(tmp_path / "x.nnp")(pixels).items():
        np.testing.assert_allclose(array, trained.network()(pixels)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("contents", "window"), [("network", 3), ("pipeline", 1), ("pipeline", 3), ("pipeline", 5)]
)
def test_contents(tmp_path, data, contents, window):
    model, pixels = tiny.model(tiny.config(data, f"detector.nms_kernel={window}")), images(1)
    write(model, tmp_path / "x.nnp", contents=contents)
    network = NnpNetwork(tmp_path / "x.nnp")
    expected, found = model.network()(pixels), network(pixels)
    if contents == "pipeline":
        heatmap = expected["heatmap"][0]
        is_peak = [plane == cv2.dilate(plane, np.ones((window, window), np.uint8)) for plane in heatmap]
        expected["heatmap"] = np.where(is_peak, heatmap, 0)[None]
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5)
    inputs = NnpLoader(str(tmp_path / "x.nnp")).get_network("runtime").inputs
    assert inputs["image"].shape == ((1, 3, 64, 64) if contents == "network" else (1, 64, 64, 3))


def test_same_detections(tmp_path, data):
    model = tiny.model(tiny.config(data))
    write(model, tmp_path / "x.nnp")
    predictor, exported = Predictor.of(model), Predictor.from_checkpoint(tmp_path / "x.nnp")
    assert exported.class_names == tiny.CLASS_NAMES
    for path in sorted((data / "train").iterdir()):
        image = cv2.imread(str(path))
        expected, found = predictor(image), exported(image)
        assert len(found) == len(expected) > 0
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
        np.testing.assert_allclose(found.boxes, expected.boxes, rtol=0, atol=1e-3)


def test_a_path_that_cannot_be_written_raises_an_error(tmp_path, data):
    (tmp_path / "file").write_text("")
    with pytest.raises(PointDetError, match=r"cannot write .*file/x.nnp \(.*\); .*choose another place"):
        write(tiny.model(tiny.config(data)), tmp_path / "file" / "x.nnp")


def export(*arguments):
    return subprocess.run(
        [sys.executable, SRC / "save_nnp.py", "ctdet", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_program(tmp_path, data):
    model = tiny.model(tiny.config(data))
    checkpoint = tiny.write_checkpoint(tmp_path / "best", model)
    result = export("--checkpoint", checkpoint, "--save_dir", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    path = tmp_path / "out" / "resnet_18.nnp"
    assert (
        f"{path}: maps, float, image (1, 64, 64, 3) uint8 BGR -> heatmap (1, {len(tiny.CLASS_NAMES)}, 16, 16)"
        in result.stdout
    )
    assert "largest difference after loading it again: " in result.stdout
    pixels = images(1)
    for name, array in NnpNetwork(path)(pixels).items():
        np.testing.assert_allclose(array, model.network()(pixels)[name], rtol=1e-4, atol=1e-5)


def test_program_with_an_unsuitable_input_size(tmp_path, data):
    checkpoint = tiny.write_checkpoint(tmp_path / "best", tiny.model(tiny.config(data)))
    result = export("--checkpoint", checkpoint, "--input_h", "65", "--save_dir", tmp_path / "out")
    assert result.returncode == 2
    assert "input.height must be a multiple of 32 for resnet, not 65; set it to 64 or 96\n" in result.stderr
    assert not (tmp_path / "out").exists()
