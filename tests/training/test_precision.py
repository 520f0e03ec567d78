# SPDX-License-Identifier: Apache-2.0
"""Half precision trains like float, keeps losses in float, and an overflow changes nothing.

The CPU has half precision too, but it is slow, and it also sums in half; so the networks are tiny there. `-k cudnn`
selects the tests of a GPU.
"""

import numpy as np
import pytest
import tiny

from pointdet.data.augment import normalisation
from pointdet.errors import PointDetError
from pointdet.model.network import NNablaNetwork
from pointdet.runtime import start
from pointdet.training.graph import TrainingGraph
from pointdet.training.solver import Solver
from pointdet.weights import h5_file
from pointdet.weights.fit import fit

MIXED = ("mixed_precision.mixed_precision=true", "mixed_precision.loss_scaling=16")
ON_CPU = ("model.width=0.03", "train.batch_size=2", "input.height=32", "input.width=32")
ON_GPU = ("model.width=0.25", "train.batch_size=8", "input.height=128", "input.width=128")
# One network of each detector.
DETECTORS = ["resnet", *(name for name, settings in tiny.NETWORKS.items() if "detector.name" in settings[0])]
STEM = "conv1/conv/W"  # has a fourth channel in half
# Functions of the colour matrix and of the losses, whose ranges or sums exceed half precision.
NEVER_HALF = {"BatchMatmul", "Exp", "Log", "LogSigmoid", "Sigmoid", "Sum", "Gather", "AbsoluteError", "Div2"}


@pytest.fixture(params=["cpu", "cudnn", "cudnn NHWC"])
def make(request, data):
    """make("resnet", "train.seed=3"): a model on the device, with NNabla's own kernels."""
    device, _, layout = request.param.partition(" ")
    try:
        runtime = start(device, cpu_kernels="nnabla")
    except PointDetError as error:
        pytest.skip(str(error))

    def build(network, *settings):
        size = ON_CPU if runtime.on_cpu else ON_GPU
        layouts = (f"mixed_precision.channel_last={bool(layout)}",)
        config = tiny.config(data, *tiny.NETWORKS[network], *size, *layouts, *settings)
        return tiny.model(config, runtime=runtime)

    yield build
    start()  # the CPU is the default device again


class Training:
    """Updates of Adam. `skipped` counts those that overflowed."""

    def __init__(self, model, batch_statistics=True):
        self.model, self.parameters = model, model.detector.parameters()
        if batch_statistics:
            self.graph = TrainingGraph(model.config, model.detector, model.runtime)
        else:
            self.graph = tiny.graph_of_running_statistics(model)
        self.solver = Solver(model.config.train, model.config.mixed_precision, self.parameters)

    @property
    def scale(self):
        return self.solver.loss_scale.value

    @property
    def skipped(self):
        return self.solver.loss_scale.skipped_steps

    def step(self, batch):
        """The loss before the update."""
        loss = self.forward_backward(batch)
        self.solver.update(1e-3)
        return loss

    def forward_backward(self, batch):
        """The loss. The parameters get their gradients, multiplied by `scale`."""
        self.solver.begin()
        self.graph.forward(batch, self.model.detector.loss.count(batch))
        self.graph.backward(self.scale)
        return self.graph.values()["total"]

    def state(self, folder):
        """Parameters, running statistics, Adam's moments and counters."""
        self.solver.save(folder / "solver.h5")
        return {**tiny.parameters(self.model), **h5_file.read(folder / "solver.h5")}


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def loss_and_gradients(model, first, batches):
    """The loss and all gradients for the parameters `first`, with running statistics."""
    fit(first, model.detector.parameters(), model.detector.channel_last)
    training, (batch,) = Training(model, batch_statistics=False), batches(model, 1)
    loss, trainable = training.forward_backward(batch), model.detector.parameters(trainable_only=True)
    gradients = [v.g.ravel() / training.scale for name, v in trainable.items() if name != STEM]
    return loss, np.concatenate(gradients)


@pytest.mark.parametrize("network", tiny.NETWORKS)
def test_half_has_the_gradients_of_float(make, batches, network):
    """Measured over four seeds: the loss differs by up to 1 %, the norm of the gradients by 8 %, their cosine is above 0.98."""
    model = make(network)
    first = tiny.parameters(model)
    loss, expected = loss_and_gradients(model, first, batches)
    half_loss, found = loss_and_gradients(make(network, *MIXED), first, batches)
    assert half_loss != loss  # the precision does differ
    assert half_loss == pytest.approx(loss, rel=0.03)
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(expected), rel=0.2)
    assert cosine(found, expected) > 0.95


def trained(model, first, batches, steps):
    """The losses of a training from the parameters `first`, and the changes of all kernels."""
    fit(first, model.detector.parameters(), model.detector.channel_last)
    training = Training(model)
    losses = [training.step(batch) for batch in batches(model, steps)]
    # The gradient of such a small network is sometimes a hundred times as large, in float too. In half that step is
    # skipped.
    assert training.skipped <= 1
    last = tiny.parameters(model)
    changes = [last[name] - array for name, array in first.items() if name.endswith("/W") and name != STEM]
    return np.array(losses), np.concatenate([change.ravel() for change in changes])


@pytest.mark.parametrize("network", tiny.NETWORKS)
def test_half_trains_as_float(make, batches, network):
    """With batch statistics, which amplify rounding errors on maps of one cell.

    Measured over nine seeds: the first loss differs by up to 1.2 %, the mean loss by 2 %, the norm of the changes of the
    kernels by 8 %; the cosine of these changes is above 0.13, and that of unrelated changes is 0.01.
    """
    steps = 20 if network == "resnet" else 3
    model = make(network, "train.batch_size=4")
    first = tiny.parameters(model)
    expected, change = trained(model, first, batches, steps)
    found, half_change = trained(make(network, "train.batch_size=4", *MIXED), first, batches, steps)
    assert (found != expected).all()
    assert found[0] == pytest.approx(expected[0], rel=0.04)
    assert found.mean() == pytest.approx(expected.mean(), rel=0.06)
    assert np.linalg.norm(half_change) == pytest.approx(np.linalg.norm(change), rel=0.2)
    assert cosine(half_change, change) > 0.05


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


@pytest.mark.parametrize("network", tiny.NETWORKS)
def test_what_is_half(make, batches, network):
    model = make(network, *MIXED)
    training = Training(model)
    types = {"half": set(), "float": set()}

    def note(function):
        precision = function.context.backend[0].partition(":")[2]
        types[precision].add(function.info.type_name.partition("Cuda")[0])

    training.graph.terms["total"].visit(note)
    assert {"Convolution", "ReLU", "Concatenate"} <= types["half"]
    assert "BatchNormalization" in types["float" if model.runtime.on_cpu else "half"]
    assert not types["half"] & NEVER_HALF
    assert {"BatchMatmul", "LogSigmoid", "Gather"} <= types["float"]

    training.step(*batches(model, 1))
    assert training.skipped == 0
    assert {v.data.dtype for v in training.parameters.values()} == {np.dtype(np.float32)}  # statistics too


@pytest.mark.parametrize("network", tiny.NETWORKS)
def test_half_detects_as_float(make, network):
    """Probabilities within 0.03, other maps within 2 % of the largest."""
    model = make(network, *MIXED)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    colour = normalisation(model.config.input, model.detector.image_channels)
    expected, found = (
        NNablaNetwork(model.detector, model.runtime, colour, half)(images) for half in (False, True)
    )
    for name, maps in expected.items():
        assert found[name].dtype == np.float32 and (found[name] != maps).any()
        largest = 1.5 if name in model.detector.head.heatmaps else np.abs(maps).max()
        np.testing.assert_allclose(found[name], maps, rtol=0, atol=0.02 * largest, err_msg=name)


@pytest.mark.parametrize("logit", [-2000.0, 2000.0])
@pytest.mark.parametrize("network", DETECTORS)
def test_saturated_logits_harm_nothing(make, batches, network, logit):
    """Every cell of every class is as sure as half allows, and wrong: the loss is large, the gradients are sound."""
    model = make(network, *MIXED)
    training, (batch,) = Training(model), batches(model, 1)
    final = "/".join(model.detector.class_bias.split("/")[-3:])
    biases = [v for name, v in training.parameters.items() if name.endswith(final)]
    assert len(biases) == len(model.detector.head.heatmaps)
    for bias in biases:
        bias.d = np.full(bias.shape, logit)
    assert 1000 < training.step(batch) < np.inf and training.skipped == 0
    for name, parameter in training.parameters.items():
        assert np.isfinite(parameter.d).all(), name
    assert all((np.abs(bias.d) < abs(logit)).any() for bias in biases)  # saturated cells learn

    half = NNablaNetwork(model.detector, model.runtime, normalisation(model.config.input, 4), half=True)
    maps = {name: array[0] for name, array in half(np.zeros((1, 32, 32, 3), np.uint8)).items()}
    assert all((maps[name] == (logit > 0)).all() for name in model.detector.head.heatmaps)
    assert np.isfinite(model.detector.codec.decode(maps, 10).boxes).all()


def test_a_scale_too_large_costs_its_steps_and_nothing_else(make, batches, tmp_path):
    """The first step that is done is that of a run which began with its scale."""
    model = make("resnet", *MIXED, f"mixed_precision.loss_scaling={2.0**24}")
    training, (batch,) = Training(model), batches(model, 1)
    before = training.state(tmp_path)
    training.step(batch)
    assert (training.skipped, training.scale) == (1, 2.0**23)
    assert_equal(training.state(tmp_path), before)
    steps = 1
    while training.skipped == steps:
        training.step(batch)
        steps += 1
    assert training.scale == 2.0 ** (24 - training.skipped)

    other = Training(make("resnet", *MIXED, f"mixed_precision.loss_scaling={training.scale}"))
    other.step(batch)
    assert other.skipped == 0
    if model.runtime.on_cpu:  # cuDNN does not add up in the same order twice
        assert_equal(training.state(tmp_path), other.state(tmp_path))


def test_an_overflow_in_any_layer_is_seen(make, batches, tmp_path):
    """Though ReLU and pooling make 0 of NaN; and it changes nothing."""
    model = make("resnet", *MIXED)
    training, (batch,) = Training(model), batches(model, 1)
    kernels = [name for name in training.parameters if name.endswith("/W")][::4]
    for count, name in enumerate(kernels, 1):
        kept = training.parameters[name].d.copy()
        training.parameters[name].d = kept * (6e4 / np.abs(kept).max())
        before = training.state(tmp_path)
        training.step(batch)
        assert training.skipped == count, name
        assert_equal(training.state(tmp_path), before)
        training.parameters[name].d = kept
    training.step(batch)
    assert training.skipped == len(kernels) == 8
