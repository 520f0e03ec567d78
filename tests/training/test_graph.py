# SPDX-License-Identifier: Apache-2.0
"""Accumulated passes are the joined batch, whoever computes them."""

import resource
from dataclasses import replace

import numpy as np
import pytest
import tiny

from pointdet.ops.cpu.onednn import library_file
from pointdet.structures import Annotation
from pointdet.training.graph import TrainingGraph
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
    """Gradients and terms of one update that takes `batches` in `parts` passes, running statistics used."""
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    graph = TrainingGraph(model.config, model.detector, model.runtime, training=False)
    solver = Solver(model.config.train, model.config.mixed_precision, model.detector.parameters())
    divisors = model.detector.loss.count(joined)
    solver.begin()
    terms = {}
    for part in range(parts):
        rows = slice(part * len(joined["weight"]) // parts, (part + 1) * len(joined["weight"]) // parts)
        for name, value in graph.forward({n: a[rows] for n, a in joined.items()}, divisors).items():
            terms[name] = terms.get(name, 0) + value
        graph.backward(1.0, None)
    learnt = model.detector.parameters(learnt_only=True)
    return {name: v.g.copy() for name, v in learnt.items()}, terms


def test_accumulated_passes_are_the_joined_batch(data, batches):
    """With the loss's divisors of all passes together; one image of four has no weight."""
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
    # Divisors of each pass alone would give another gradient.
    first, _ = gradients(model, pair[:1], 1)
    second, _ = gradients(model, pair[1:], 1)
    wrong = max(np.abs(first[name] + second[name] - one[name]).max() for name in one)
    assert wrong > 0.1 * largest


@pytest.mark.parametrize("network", DETECTORS)
def test_images_may_come_one_by_one_and_without_objects(data, batches, network):
    """A batch of one is a batch; an image without objects adds background alone, and two of them harm nobody."""
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
def test_whoever_computes(data, batches, network, kernels):
    """The same loss and, up to the ReLUs that rounding switches, the same gradients as NNabla's functions."""
    model = tiny.model(tiny.config(data, *tiny.NETWORKS[network]))
    (batch,) = batches(model, 1)
    found = []
    for name in ("nnabla", kernels):
        runtime = replace(model.runtime, cpu_kernels=name)
        gradient, terms = gradients(replace(model, runtime=runtime), [batch], 1)
        found.append((np.concatenate([g.ravel() for g in gradient.values()]), terms))
    (stock, terms), (ours, same) = found
    assert same == pytest.approx(terms, rel=1e-4)
    assert np.linalg.norm(ours - stock) <= 1e-3 * np.linalg.norm(stock)


@pytest.mark.parametrize("kernels", KERNELS)
def test_no_step_asks_the_system_for_memory(data, batches, kernels):
    """Fresh memory costs more than what is computed in it; a step of this network touches 15,000 pages."""
    model = tiny.model(tiny.config(data, "model.width=0.5", "input.height=128", "input.width=128"))
    runtime = replace(model.runtime, cpu_kernels=kernels)
    graph = TrainingGraph(model.config, model.detector, runtime)
    settings = model.config.train.model_copy(update={"ema_decay": 0.9})
    solver = Solver(settings, model.config.mixed_precision, model.detector.parameters(), in_blocks=True)
    (batch,) = batches(model, 1)
    faults = []
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        solver.begin()
        graph.forward(batch, np.ones(2))
        graph.backward(1.0, None)
        solver.update(1e-5)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert sorted(faults[4:])[1] < 1000


@pytest.mark.parametrize("arch", ["resdcn", "dla"])
def test_deformable_networks_learn_where_to_look(data, batches, arch):
    model = tiny.model(tiny.config(data, *tiny.NETWORKS[arch]))
    model = replace(model, runtime=replace(model.runtime, cpu_kernels="blas"))
    moving = [v for name, v in model.detector.parameters().items() if name.endswith("offset/conv/W")]
    assert len(moving) == (16 if arch == "dla" else 3) and not any(v.d.any() for v in moving)
    graph = TrainingGraph(model.config, model.detector, model.runtime)
    solver = Solver(model.config.train, model.config.mixed_precision, model.detector.parameters())
    for batch in batches(model, 2):
        solver.begin()
        graph.forward(batch, model.detector.loss.count(batch))
        graph.backward(1.0, None)
        solver.update(3e-3)
    assert all(v.d.any() for v in moving)


@pytest.mark.parametrize("kernels", ["nnabla", "blas"])
@pytest.mark.parametrize("network", ["resnet", "dlav0", "hourglass", "hrnet"])
def test_recomputed(data, batches, network, kernels):
    """The same gradients and running statistics, and less memory: most maps are gone after the forward pass."""
    found = []
    for recompute in ("false", "true"):
        settings = (*tiny.NETWORKS[network], f"train.recompute={recompute}")
        model = tiny.model(tiny.config(data, *settings))
        graph = TrainingGraph(
            model.config, model.detector, replace(model.runtime, cpu_kernels=kernels), training=True
        )
        solver = Solver(model.config.train, model.config.mixed_precision, model.detector.parameters())
        (batch,) = batches(model, 1)
        solver.begin()
        graph.forward(batch, model.detector.loss.count(batch))
        kept = []
        graph.terms["total"].visit(
            lambda f, kept=kept: kept.extend(v.size for v in f.outputs if not v.data.clear_called)
        )
        graph.backward(1.0, None)
        parameters = model.detector.parameters()
        arrays = [v.g.ravel() if v.need_grad else v.d.ravel() for v in parameters.values()]
        found.append((np.concatenate(arrays), sum(kept)))
    (plain, whole), (again, less) = found
    np.testing.assert_array_equal(again, plain)
    assert less < 0.75 * whole
