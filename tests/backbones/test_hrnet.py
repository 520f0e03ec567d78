# SPDX-License-Identifier: Apache-2.0
"""HRNet against NumPy with the published parameter keys; sizes, counts, layouts, and a short training."""

import networks
import nnabla as nn
import numpy as np
import pytest
import tiny

from pointdet.backbones.hrnet import hrnet
from pointdet.data.catalogue import read_dataset
from pointdet.detectors import catalogue
from pointdet.errors import PointDetError
from pointdet.ops.mode import Mode
from pointdet.programs import train
from pointdet.runtime import start
from pointdet.training.graph import TrainingGraph
from pointdet.training.initial_parameters import fresh
from pointdet.training.solver import Solver
from pointdet.weights.fit import fit
from pointdet.weights.naming.catalogue import imagenet, to_ours


class PlainHrNet:
    """HRNet up to the concatenated map (C, H, W) in float64, from arrays with the published keys."""

    def __init__(self, arrays):
        self.arrays = arrays

    def layer(self, x, conv, norm, stride=1):
        """Convolution and normalisation with running statistics."""
        w = self.arrays[f"{conv}.weight"].astype(np.float64)
        pad = w.shape[2] // 2
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], axis=(1, 2))
        y = np.tensordot(w, windows[:, ::stride, ::stride], axes=((1, 2, 3), (0, 3, 4)))
        gamma, beta, mean, var = (
            self.arrays[f"{norm}.{leaf}"].astype(np.float64)[:, None, None]
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (y - mean) / np.sqrt(var + 1e-5) * gamma + beta

    def pair(self, x, scope, stride=1):
        return self.layer(x, f"{scope}.0", f"{scope}.1", stride)

    def block(self, x, scope, layers):
        """A residual block."""
        h = x
        for k in range(1, layers + 1):
            h = self.layer(h, f"{scope}.conv{k}", f"{scope}.bn{k}")
            h = relu(h) if k < layers else h
        projected = f"{scope}.downsample.0.weight" in self.arrays
        return relu(h + (self.pair(x, f"{scope}.downsample") if projected else x))

    def module(self, maps, scope):
        for k in range(4):
            maps = [self.block(h, f"{scope}.branches.{b}.{k}", 2) for b, h in enumerate(maps)]
        return [
            relu(sum(self.fused(h, i, j, f"{scope}.fuse_layers.{i}.{j}") for j, h in enumerate(maps)))
            for i in range(len(maps))
        ]

    def fused(self, h, i, j, scope):
        """Branch j, resampled for branch i."""
        if j > i:
            return np.kron(self.pair(h, scope), np.ones((1, 2 ** (j - i), 2 ** (j - i))))
        for k in range(i - j):
            h = self.pair(h, f"{scope}.{k}", 2)
            h = relu(h) if k < i - j - 1 else h
        return h

    def __call__(self, x):
        h = relu(self.layer(x, "conv1", "bn1", 2))
        h = relu(self.layer(h, "conv2", "bn2", 2))
        for k in range(4):
            h = self.block(h, f"layer1.{k}", 3)
        maps = self.module(
            [relu(self.pair(h, "transition1.0")), relu(self.pair(h, "transition1.1.0", 2))], "stage2.0"
        )
        maps.append(relu(self.pair(maps[1], "transition2.2.0", 2)))
        for k in range(4):
            maps = self.module(maps, f"stage3.{k}")
        maps.append(relu(self.pair(maps[2], "transition3.3.0", 2)))
        for k in range(3):
            maps = self.module(maps, f"stage4.{k}")
        return np.concatenate([bilinear(h, maps[0].shape[1:]) for h in maps])


def relu(x):
    return np.maximum(x, 0)


def bilinear(x, size):
    """(C, h, w) -> (C, *size)."""
    for axis, length in enumerate(size, 1):
        cells = np.arange(x.shape[axis]) + 0.5
        places = (np.arange(length) + 0.5) * x.shape[axis] / length
        x = np.apply_along_axis(lambda line, at=places, cells=cells: np.interp(at, cells, line), axis, x)
    return x


@pytest.mark.parametrize("channel_last", [False, True])
def test_plain_numpy(channel_last):
    table = {"parameters": networks.hrnet_parameters(18).items(), "gain_B": 0.85}
    arrays = networks.published(table, "B")
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    mode = Mode(training=False, channel_last=channel_last)
    image = nn.Variable.from_numpy_array(x.transpose(0, 2, 3, 1) if channel_last else x)
    (feature,) = hrnet(image, 18, 4, 1.0, mode)
    report = fit(to_ours(arrays, imagenet("hrnet", False)), nn.get_parameters(grad_only=False), channel_last)
    assert not report.skipped + report.new + report.unused
    feature.forward()
    found = feature.d[0].transpose(2, 0, 1) if channel_last else feature.d[0]
    expected = PlainHrNet(arrays)(x[0].astype(np.float64))
    assert found.shape == expected.shape == (270, 16, 24)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("channels", "count"), [(18, 9_562_260), (32, 29_305_536), (48, 65_325_120)])
def test_parameter_counts(channels, count):
    """Counts of the official network. The feature map has 15 times the channels of the finest branch."""
    (feature,) = hrnet(nn.Variable((1, 3, 64, 32)), channels, 4, 1.0, Mode(False))
    assert feature.shape == (1, 15 * channels, 16, 8)
    assert sum(v.size for v in nn.get_parameters().values()) == count


def test_width():
    (feature,) = hrnet(nn.Variable((1, 3, 32, 32)), 18, 4, 0.25, Mode(False))
    assert feature.shape == (1, 15 * 8, 8, 8)
    shapes = {name: v.shape for name, v in nn.get_parameters().items()}
    assert shapes["conv1/conv/W"] == (16, 3, 3, 3)
    assert shapes["stage4/2/branches/3/3/conv2/conv/W"] == (64, 64, 3, 3)


def test_gradients_do_not_depend_on_the_layout():
    networks.assert_layouts_agree({"arch": "hrnet", "width": 0.25, "head_channels": 8})


def test_loss_decreases(tmp_path):
    """A narrow network from scratch. At this size NNabla's own functions are the fastest."""
    settings = ("model.arch=hrnet", "model.width=0.25", "model.head_channels=16", "augment.crop=false")
    config = tiny.config(tiny.draw(tmp_path, train=2), *settings)
    model = fresh(config, tiny.CLASS_NAMES, start(cpu_kernels="nnabla"))
    with train.loader(model, read_dataset(config.dataset, "train")) as loader:
        (batch,) = ({name: a.copy() for name, a in batch.items()} for batch in loader.epoch(0))
    graph = TrainingGraph(config, model.detector, model.runtime)
    solver = Solver(config.train, config.mixed_precision, model.detector.parameters())
    losses = []
    for _ in range(15):
        solver.begin()
        graph.forward(batch, model.detector.loss.count(batch))
        losses.append(graph.values()["total"])
        graph.backward(1.0)
        solver.update(1e-3)
    assert losses[-1] < 0.2 * losses[0]


def test_other_depths_are_refused():
    with pytest.raises(PointDetError, match="hrnet has no depth 40; choose one of 18, 32, 48"):
        catalogue.build(networks.config(model={"arch": "hrnet", "num_layers": 40}), 2)
