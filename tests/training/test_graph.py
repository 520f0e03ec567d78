# SPDX-License-Identifier: Apache-2.0
"""Gradients of the training graph: accumulated passes, CPU kernels, memory, gradient checkpointing."""

import resource
from dataclasses import replace

import numpy as np
import pytest
import tiny

from pointdet.ops.cpu.onednn_library import library_file
from pointdet.structures import Annotation
from pointdet.training.graph import TrainingGraph
from pointdet.training.moving_average import MovingAverage
from pointdet.training.solver import Solver

KERNELS = [
    "blas",
    pytest.param(
        "onednn",
        marks=pytest.mark.skipif(library_file() is None, reason="onednn-cpu-gomp is not installed"),
    ),
]

# One network of each detector.
DETECTORS = ["resnet", *(name for name, settings in tiny.NETWORKS.items() if "detector.name" in settings[0])]


def gradients(model, batches, parts):
    """Gradients and loss terms of one update: `batches` in `parts` passes, with running statistics."""
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    graph = tiny.graph_of_running_statistics(model)
    solver = Solver(model.config.train, model.config.mixed_precision, model.detector.parameters())
    divisors = model.detector.loss.count(joined)
    solver.begin()
    terms = {}
    for part in range(parts):
        rows = slice(part * len(joined["weight"]) // parts, (part + 1) * len(joined["weight"]) // parts)
        graph.forward({n: a[rows] for n, a in joined.items()}, divisors)
        for name, value in graph.values().items():
            terms[name] = terms.get(name, 0) + value
        graph.backward(1.0)
    trainable = model.detector.parameters(trainable_only=True)
    return {name: v.g.copy() for name, v in trainable.items()}, terms


def test_accumulated_passes_equal_the_joined_batch(data, batches):
    """The divisors of the loss count all passes. One image of four has weight 0."""
    model = tiny.model(tiny.config(data))
    pair = batches(model, 2)
    pair[1]["weight"][1] = 0
    one, terms = gradients(tiny.model(tiny.config(data, "train.batch_size=4")), pair, 1)
    two, sums = gradients(model, pair, 2)
    assert terms == pytest.approx(sums, rel=1e-5)
    largest = max(np.abs(gradient).max() for gradient in one.values())
    assert set(one) == set(two) and largest > 0.01
    for name, gradient in one.items():
        np.testing.assert_allclose(two[name], gradient, rtol=0, atol=1e-6 * largest, err_msg=name)
    # The test can fail: with divisors per pass the gradient is different.
    first, _ = gradients(model, pair[:1], 1)
    second, _ = gradients(model, pair[1:], 1)
    difference = max(np.abs(first[name] + second[name] - one[name]).max() for name in one)
    assert difference > 0.1 * largest


@pytest.mark.parametrize("network", DETECTORS)
def test_batches_of_one_image_and_images_without_objects(data, batches, network):
    """Images without objects add to the heatmap term only. Without any object gradients are finite."""
    settings = tiny.NETWORKS[network]
    model = tiny.model(tiny.config(data, *settings))
    single = tiny.model(tiny.config(data, *settings, "train.batch_size=1"))
    (batch,) = batches(model, 1)
    codec = model.detector.codec
    for image in (0, 1):
        codec.encode(Annotation.of([], []), {name: batch[name][image] for name in codec.target_shapes()})
        joined, terms = gradients(model, [batch], 1)
        one_by_one, sums = gradients(single, [batch], 2)
        assert sums == pytest.approx(terms, rel=1e-5) and terms["total"] >= terms["heatmap"] > 0
        assert (terms["total"] == terms["heatmap"]) == (image == 1)
        largest = max(np.abs(gradient).max() for gradient in joined.values())
        assert np.isfinite(largest) and largest > 0
        for name, gradient in joined.items():
            np.testing.assert_allclose(one_by_one[name], gradient, rtol=0, atol=1e-5 * largest, err_msg=name)


@pytest.mark.parametrize("network", tiny.NETWORKS)
@pytest.mark.parametrize("kernels", KERNELS)
def test_cpu_kernels_agree_with_nnabla(data, batches, network, kernels):
    """The same loss and nearly the same gradients: rounding can change the sign of a ReLU's input."""
    model = tiny.model(tiny.config(data, *tiny.NETWORKS[network]))
    (batch,) = batches(model, 1)
    found = []
    for name in ("nnabla", kernels):
        runtime = replace(model.runtime, cpu_kernels=name)
        gradient, terms = gradients(replace(model, runtime=runtime), [batch], 1)
        found.append((np.concatenate([g.ravel() for g in gradient.values()]), terms))
    (expected, expected_terms), (gradient, terms) = found
    assert terms == pytest.approx(expected_terms, rel=1e-4)
    assert np.linalg.norm(gradient - expected) <= 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_step_reuses_its_memory(data, batches, kernels):
    """Page faults of new memory cost more time than the computation. A step uses 15,000 pages."""
    model = tiny.model(tiny.config(data, "model.width=0.5", "input.height=128", "input.width=128"))
    runtime = replace(model.runtime, cpu_kernels=kernels)
    graph = TrainingGraph(model.config, model.detector, runtime)
    parameters = model.detector.parameters()
    solver = Solver(model.config.train, model.config.mixed_precision, parameters, in_blocks=True)
    average = MovingAverage(parameters, 0.9, in_blocks=True)
    (batch,) = batches(model, 1)
    faults = []
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        solver.begin()
        graph.forward(batch, np.ones(2))
        graph.backward(1.0)
        solver.update(1e-5)
        average.update()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    # Usually none. After tests with large arrays malloc returns some temporary arrays to the system: 1,200 pages.
    assert sorted(faults[4:])[1] < 3000


@pytest.mark.parametrize("arch", ["resdcn", "dla"])
def test_offsets_of_deformable_convolutions_are_trained(data, batches, arch):
    model = tiny.model(tiny.config(data, *tiny.NETWORKS[arch]))
    model = replace(model, runtime=replace(model.runtime, cpu_kernels="blas"))
    offsets = [v for name, v in model.detector.parameters().items() if name.endswith("offset/conv/W")]
    assert len(offsets) == (16 if arch == "dla" else 3) and not any(v.d.any() for v in offsets)
    graph = TrainingGraph(model.config, model.detector, model.runtime)
    solver = Solver(model.config.train, model.config.mixed_precision, model.detector.parameters())
    for batch in batches(model, 2):
        solver.begin()
        graph.forward(batch, model.detector.loss.count(batch))
        graph.backward(1.0)
        solver.update(3e-3)
    assert all(v.d.any() for v in offsets)


@pytest.mark.parametrize("kernels", ["nnabla", "blas"])
@pytest.mark.parametrize("network", ["resnet", "dlav0", "hourglass", "hrnet"])
def test_gradient_checkpointing(data, batches, network, kernels):
    """train.recompute: the same gradients and running statistics, fewer maps after the forward pass."""
    found = []
    for recompute in ("false", "true"):
        settings = (*tiny.NETWORKS[network], f"train.recompute={recompute}")
        model = tiny.model(tiny.config(data, *settings))
        graph = TrainingGraph(model.config, model.detector, replace(model.runtime, cpu_kernels=kernels))
        solver = Solver(model.config.train, model.config.mixed_precision, model.detector.parameters())
        (batch,) = batches(model, 1)
        solver.begin()
        graph.forward(batch, model.detector.loss.count(batch))
        kept = []
        graph.terms["total"].visit(
            lambda f, kept=kept: kept.extend(v.size for v in f.outputs if not v.data.clear_called)
        )
        graph.backward(1.0)
        parameters = model.detector.parameters()
        arrays = [v.g.ravel() if v.need_grad else v.d.ravel() for v in parameters.values()]
        found.append((np.concatenate(arrays), sum(kept)))
    (expected, size), (recomputed, recomputed_size) = found
    np.testing.assert_array_equal(recomputed, expected)
    assert recomputed_size < 0.75 * size
