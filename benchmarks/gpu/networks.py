# SPDX-License-Identifier: Apache-2.0
"""A training step and the output maps of every detector and backbone, compared with NNabla's CPU functions.

python benchmarks/gpu/networks.py: the same parameters and the same batch on the device, in float and half,
NCHW and NHWC. Columns:

loss        the loss of the step
terms       largest relative difference of a loss term
statistics  largest difference of running statistics after the step
maps        largest difference of an output map of the inference network
gradient    largest difference of one gradient
cosine      cosine between all gradients, normalised with running statistics
batch       the same with batch statistics, as in training. On maps of few cells they amplify the rounding of
            half precision, so half has no bound here.

All differences are relative to the norm.
"""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass

import nnabla as nn
import numpy as np
from batches import colour_of, random_batch
from comparison import cosine, largest_difference
from device import describe, functions_on_cpu, start
from models import KINDS, NETWORKS, ON_CPU, ON_GPU, small_model
from results import Results, argument_parser, chosen
from training_step import TrainingStep

from pointdet.arrays import Arrays, Batch, Maps
from pointdet.model.restore import Model
from pointdet.programs.run import run_program
from pointdet.runtime import Runtime
from pointdet.weights.fit import fit

COLUMNS = ("loss", "terms", "statistics", "maps", "gradient", "cosine", "batch")
LOSS_SCALE = "mixed_precision.loss_scaling=64"
FLOOR = 1e-3  # gradients whose norm is below this share of the largest are compared with this share


@dataclass(frozen=True)
class Differences:
    """The differences of one network and kind, and their bounds. Cosines must be above, all others below."""

    terms: float
    statistics: float
    maps: float
    gradient: float
    cosine: float
    batch: float

    def within(self, bounds: Differences) -> bool:
        """NaN is outside of every bound."""
        return all(
            value > bound if name in ("cosine", "batch") else value < bound
            for (name, value), bound in zip(asdict(self).items(), asdict(bounds).values(), strict=True)
        )


FLOAT = Differences(terms=1e-3, statistics=1e-3, maps=1e-3, gradient=0.02, cosine=0.9999, batch=0.9999)
HALF = Differences(terms=0.05, statistics=0.05, maps=0.05, gradient=np.inf, cosine=0.99, batch=-1)
# NNabla's CPU functions also sum in half.
HALF_ON_CPU = Differences(terms=0.1, statistics=0.1, maps=0.05, gradient=np.inf, cosine=0.98, batch=-1)


@dataclass(frozen=True)
class Step:
    """What a model computes for one batch."""

    terms: dict[str, float]
    statistics: Arrays  # after the forward pass
    gradients: Arrays  # with batch statistics
    gradients_of_running: Arrays  # with running statistics
    maps: Maps  # of the inference network
    on_cpu: list[str]


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS), help="by commas (default: %(default)s)")
    args = parser.parse_args()
    results = Results("networks", args.results)
    reference, runtime = start("cpu"), start(args.device)
    print(describe(runtime))
    print(f"\n{'':<22}{'kind':<12}" + "".join(f"{column:>12}" for column in COLUMNS))
    for name in NETWORKS:
        if chosen(name, args.only):
            compare_network(results, name, args.kinds.split(","), runtime, reference)
    return results.finish()


def compare_network(
    results: Results, name: str, kinds: list[str], runtime: Runtime, reference: Runtime
) -> None:
    """Print one row for each kind."""
    size = ON_CPU if runtime.on_cpu else ON_GPU
    base = small_model(name, reference, *size, *KINDS["float NCHW"])
    parameters = {key: np.array(v.d, np.float32) for key, v in base.detector.parameters().items()}
    batch = random_batch(base, np.random.default_rng(1))
    expected = compute(base, batch, parameters)
    for kind in kinds:
        half = kind.startswith("half")
        try:
            model = small_model(name, runtime, *size, *KINDS[kind], LOSS_SCALE)
            found = compute(model, batch, parameters)
        except Exception as error:  # noqa: BLE001  any C++ exception; the other networks still run
            traceback.print_exc()
            results.failed(f"{name}, {kind}", error)
            continue
        bounds = (HALF_ON_CPU if runtime.on_cpu else HALF) if half else FLOAT
        report(results, name, kind, found, expected, bounds)


def compute(model: Model, batch: Batch, parameters: Arrays) -> Step:
    """The step of a model with the given parameters (NCHW, three image channels)."""
    batch = {**batch, "colour": colour_of(model, len(batch["image"]))}
    with nn.context_scope(model.runtime.context()):
        fit(parameters, model.detector.parameters(), model.detector.channel_last)
        maps = model.network()(batch["image"])
        _, running = run_step(TrainingStep(model, running_statistics=True), batch)
        step = TrainingStep(model)
        terms, gradients = run_step(step, batch)
        on_cpu = functions_on_cpu(model.runtime, step.total)
        return Step(terms, step.statistics(), gradients, running, maps, on_cpu)


def run_step(step: TrainingStep, batch: Batch) -> tuple[dict[str, float], Arrays]:
    """Loss terms and gradients."""
    step.begin()
    step.forward(batch)
    step.backward()
    return step.terms(), step.gradients()


def compare_steps(found: Step, expected: Step) -> Differences:
    gradients, running = (
        _same_channels(one, other)
        for one, other in (
            (found.gradients, expected.gradients),
            (found.gradients_of_running, expected.gradients_of_running),
        )
    )
    return Differences(
        terms=max(abs(found.terms[n] - value) / (abs(value) + 1e-3) for n, value in expected.terms.items()),
        statistics=largest_difference(found.statistics, expected.statistics)[0],
        maps=largest_difference(found.maps, expected.maps)[0],
        gradient=largest_difference(running, expected.gradients_of_running, FLOOR)[0],
        cosine=cosine(running, expected.gradients_of_running),
        batch=cosine(gradients, expected.gradients),
    )


def _same_channels(found: Arrays, expected: Arrays) -> Arrays:
    """In half the first convolution has a fourth input channel, which is always zero. It is removed."""
    return {
        name: found[name][:, : array.shape[1]] if array.ndim == 4 else found[name]
        for name, array in expected.items()
    }


def report(results: Results, name: str, kind: str, found: Step, expected: Step, bounds: Differences) -> None:
    """Print the row of one network and kind, and its faults."""
    differences = compare_steps(found, expected)
    values = asdict(differences)
    cells = "".join(
        f"{value:12.5f}" if column in ("cosine", "batch") else f"{value:12.0e}"
        for column, value in values.items()
    )
    print(f"{name:<22}{kind:<12}{found.terms['total']:12.4f}{cells}", flush=True)
    results.row(what=name, kind=kind, loss=found.terms["total"], **values)
    if found.on_cpu:
        results.fault(f"{name}, {kind}: NNabla runs {', '.join(found.on_cpu)} on the CPU")
    if not differences.within(bounds):
        results.fault(f"{name}, {kind}: outside of the bounds {asdict(bounds)}")


if __name__ == "__main__":
    run_program(main)
