# SPDX-License-Identifier: Apache-2.0
"""Heatmap targets as inputs of the graph: as if all planes were copied, on the CPU and as on a GPU."""

from dataclasses import dataclass

import nnabla as nn
import nnabla.functions as F
import numpy as np
import pytest
import tiny

from pointdet.runtime import Runtime
from pointdet.structures import Annotation
from pointdet.training import heatmap_inputs
from pointdet.training.graph import TrainingGraph
from pointdet.training.heatmap_inputs import HeatmapInputs
from pointdet.training.solver import Solver

DETECTORS = ["resnet", "cornernet", "triplet"]  # one network of each


@dataclass(frozen=True)
class LikeGpu(Runtime):
    """A runtime that is not the CPU, with the context of one: NNabla runs CPU functions in it."""

    on_cpu = False

    def context(self, half: bool = False) -> nn.Context:
        return nn.Context(["cudnn:float", "cuda:float", "cpu:float"], "CpuCachedArray", "0")


RUNTIMES = {"CPU": lambda runtime: runtime, "GPU": lambda runtime: LikeGpu(**vars(runtime))}


def empty(batch, codec, images):
    """Replace the targets of these images by those of an image without objects."""
    for image in images:
        codec.encode(Annotation.of([], []), {name: batch[name][image] for name in codec.target_shapes()})


@pytest.mark.parametrize("place", RUNTIMES)
@pytest.mark.parametrize("network", DETECTORS)
def test_every_cell_is_that_of_the_batch(data, batches, network, place):
    """Also after another batch, without objects in one image, in none, and with images of weight 0."""
    model = tiny.model(tiny.config(data, *tiny.NETWORKS[network], "train.batch_size=4"))
    codec, (first, second) = model.detector.codec, batches(model, 2)
    variables = {name: nn.Variable(first[name].shape) for name in codec.heatmaps}
    inputs = HeatmapInputs(variables, RUNTIMES[place](model.runtime))
    sums = {name: F.sum(variable) for name, variable in variables.items()}  # as a graph reads them
    second["weight"][1] = 0
    assert 0 < first["present"].sum() < first["present"].size

    for batch, without_objects in (
        (first, []),
        (second, []),
        (second, [1]),
        (second, [0, 1, 2, 3]),
        (first, []),
    ):
        empty(batch, codec, without_objects)
        inputs.fill(batch)
        for name, variable in variables.items():
            sums[name].forward(clear_no_need_grad=True)
            np.testing.assert_array_equal(variable.d, batch[name])
            assert sums[name].d == pytest.approx(batch[name].sum(dtype=np.float64), rel=1e-4)
    assert not second["present"].any() and all((first[name] == 1).any() for name in codec.heatmaps)


@pytest.mark.parametrize("place", RUNTIMES)
@pytest.mark.parametrize("network", DETECTORS)
def test_losses_and_gradients_are_those_of_all_planes(data, batches, network, place, monkeypatch):
    """To the last bit, over several updates."""

    def copy_all(self, batch):
        for name, variable in self._variables.items():
            variable.data.cast(np.float32)[...] = batch[name]

    found = []
    for fill in (HeatmapInputs.fill, copy_all):
        monkeypatch.setattr(HeatmapInputs, "fill", fill)
        model = tiny.model(tiny.config(data, *tiny.NETWORKS[network]))
        graph = TrainingGraph(model.config, model.detector, model.runtime)
        graph._heatmaps = HeatmapInputs(graph._heatmaps._variables, RUNTIMES[place](model.runtime))
        solver = Solver(model.config.train, model.config.mixed_precision, model.detector.parameters())
        taken = batches(model, 3)
        empty(taken[1], model.detector.codec, [1])
        empty(taken[2], model.detector.codec, [0, 1])
        terms = []
        for batch in taken:
            solver.begin()
            terms.append(graph.forward(batch, model.detector.loss.count(batch)).data.tolist())
            graph.backward(1.0)
            solver.update(1e-3)
        found.append((terms, tiny.parameters(model)))
    (terms, parameters), (expected_terms, expected) = found
    assert terms == expected_terms
    for name, array in expected.items():
        np.testing.assert_array_equal(parameters[name], array, err_msg=name)


@pytest.mark.parametrize("network", DETECTORS)
def test_only_planes_with_objects_are_transferred(data, batches, network, monkeypatch):
    model = tiny.model(tiny.config(data, *tiny.NETWORKS[network]))
    (batch,) = batches(model, 1)
    codec, shapes = model.detector.codec, []

    def scatter(planes, places, shape, outputs):
        shapes.append((planes.shape, places.shape, shape))

    monkeypatch.setattr(heatmap_inputs, "scatter_nd", scatter)
    variables = {name: nn.Variable(batch[name].shape) for name in codec.heatmaps}
    HeatmapInputs(variables, LikeGpu(**vars(model.runtime))).fill(batch)
    count = sum(len(np.unique(np.nonzero(b)[0])) for b in batch[codec.heatmaps[0]])
    side = tiny.SIDE // 4
    assert count < batch["present"].size
    assert shapes == [((count, side, side), (2, count), (2, 4, side, side))] * len(codec.heatmaps)
