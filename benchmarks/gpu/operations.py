# SPDX-License-Identifier: Apache-2.0
"""Every layer, pool, loss term and update on the device, compared with NNabla's CPU functions.

python benchmarks/gpu/operations.py: a table of the largest difference of outputs, gradients and running
statistics, relative to the norm, in float and half, NCHW and NHWC. A difference above its limit, and a
function that NNabla runs on the CPU, is a fault.
"""

from __future__ import annotations

import math

from comparison import largest_difference
from device import describe, start
from float_cases import FLOAT_CASES
from layer_cases import LAYERS, LayerCase
from models import KINDS
from results import Results, argument_parser, chosen

from pointdet.arrays import Arrays
from pointdet.ops.mode import Mode
from pointdet.programs.run import run_program
from pointdet.runtime import Runtime

FLOAT_LIMIT = 2e-4
HALF_LIMIT = 4e-2  # half rounds the values of pools and offsets: a few cells choose another neighbour


def main() -> int:
    args = argument_parser(__doc__).parse_args()
    results = Results("operations", args.results)
    reference, runtime = start("cpu"), start(args.device)
    print(describe(runtime))
    print(f"limits: float {FLOAT_LIMIT:g}, half {HALF_LIMIT:g}\n")
    print(f"{'':<36}" + "".join(f"{kind:>12}" for kind in KINDS))
    for name, case in LAYERS.items():
        if chosen(name, args.only):
            compare_layer(results, name, case, runtime, reference)
    for name, function in FLOAT_CASES.items():
        if chosen(name, args.only):
            expected, _ = function(reference)
            value = compare(results, name, "float NCHW", lambda f=function: f(runtime), expected, FLOAT_LIMIT)
            print(f"{name:<36}{value:12.0e}", flush=True)
    return results.finish()


def compare_layer(results: Results, name: str, case: LayerCase, runtime: Runtime, reference: Runtime) -> None:
    """Print the row of a layer: its largest difference for each kind."""
    expected, _ = case.run(reference, Mode(training=True), half=False)
    cells = []
    for kind in KINDS:
        half, channel_last = kind.startswith("half"), kind.endswith("NHWC")
        mode = Mode(
            training=True,
            channel_last=channel_last,
            has_channel_last=runtime.has_channel_last,
            norm_context=runtime.norm_context(half),
        )
        limit = case.tolerance * (HALF_LIMIT if half else FLOAT_LIMIT)
        run = lambda mode=mode, half=half: case.run(runtime, mode, half)
        cells.append(compare(results, name, kind, run, expected, limit))
    print(f"{name:<36}" + "".join(f"{cell:12.0e}" for cell in cells), flush=True)


def compare(results: Results, name: str, kind: str, run, expected: Arrays, limit: float) -> float:
    """The largest difference between `expected` and the arrays of `run()`. NaN if it raises an error."""
    try:
        found, on_cpu = run()
    except Exception as error:  # noqa: BLE001  any C++ exception; the other cases still run
        results.failed(f"{name}, {kind}", error)
        return math.nan
    value, worst = largest_difference(found, expected)
    results.row(what=name, kind=kind, difference=value, of=worst)
    if on_cpu:
        results.fault(f"{name}, {kind}: NNabla runs {', '.join(on_cpu)} on the CPU")
    if not value <= limit:
        results.fault(f"{name}, {kind}: {value:.1e} in {worst}, limit {limit:.0e}")
    return value


if __name__ == "__main__":
    run_program(main)
