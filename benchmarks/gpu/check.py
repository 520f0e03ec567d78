# SPDX-License-Identifier: Apache-2.0
"""The first check on a card: the driver, the libraries of CUDA, and one function of each library.

python benchmarks/gpu/check.py: starts the card as the programs do, prints versions, computes with cuBLAS,
cuRAND and cuDNN, trains a small classifier in float and half, and measures the speed of one convolution.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import partial

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import nnabla.solvers as S
import numpy as np
from device import describe, functions_on_cpu, start, synchronise
from results import Results, argument_parser, chosen

from pointdet.programs.run import run_program
from pointdet.runtime import Runtime

SAMPLES = 100_000
STEPS = 20
LOSS_SCALE = 128
MULTIPLY_ADD = 2  # operations


def main() -> int:
    args = argument_parser(__doc__).parse_args()
    results = Results("check", args.results)
    runtime = start(args.device)
    print(describe(runtime))
    if not runtime.on_cpu:
        print(versions())
    cases: dict[str, Callable[[], str]] = {
        "cuBLAS": partial(matrix_products, runtime),
        "cuRAND": partial(random_numbers, runtime),
        "training, float": partial(training, runtime, False),
        "training, half": partial(training, runtime, True),
        "convolution, float NCHW": partial(convolution_speed, runtime, False, False),
        f"convolution, half {'NCHW' if runtime.on_cpu else 'NHWC'}": partial(
            convolution_speed, runtime, True, not runtime.on_cpu
        ),
    }
    for name, case in cases.items():
        if not chosen(name, args.only):
            continue
        try:
            text = case()
        except Exception as error:  # noqa: BLE001  any C++ exception; the other cases still run
            results.failed(name, error)
            continue
        print(f"{name:<26}{text}", flush=True)
        results.row(what=name, text=text)
    return results.finish()


def versions() -> str:
    """Versions of the driver's CUDA and of the libraries in use."""
    found = {}
    for name, library, function in (
        ("CUDA of the driver", "libcuda.so.1", "cuDriverGetVersion"),
        ("CUDA runtime", "libcudart.so.12", "cudaRuntimeGetVersion"),
        ("NCCL", "libnccl.so.2", "ncclGetVersion"),
    ):
        number = ctypes.c_int()
        getattr(ctypes.CDLL(library), function)(ctypes.byref(number))
        found[name] = number.value
    cudnn = ctypes.CDLL("libcudnn.so.8")
    cudnn.cudnnGetVersion.restype = ctypes.c_size_t
    found["cuDNN"] = cudnn.cudnnGetVersion()
    return ", ".join(f"{name} {number}" for name, number in found.items())


def require_device(runtime: Runtime, *outputs: nn.Variable) -> None:
    """Errors: RuntimeError if NNabla runs a function of the graph on the CPU although the device is a GPU."""
    if on_cpu := functions_on_cpu(runtime, *outputs):
        raise RuntimeError(f"NNabla runs {', '.join(on_cpu)} on the CPU")


def matrix_products(runtime: Runtime) -> str:
    """Products of float and half matrices against NumPy's."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((6, 33, 65)).astype(np.float32)
    b = rng.standard_normal((6, 65, 17)).astype(np.float32)
    text = []
    for name, half, limit in (("float", False, 1e-3), ("half", True, 0.2)):
        with nn.context_scope(runtime.context(half)):
            y = F.batch_matmul(nn.Variable.from_numpy_array(a), nn.Variable.from_numpy_array(b))
            y.forward()
        require_device(runtime, y)
        error = float(np.abs(y.d.astype(np.float32) - a @ b).max())
        if not error < limit:
            raise RuntimeError(f"{name} products differ by {error:.1e} from NumPy's")
        text.append(f"{name} {error:.0e}")
    return f"largest difference from NumPy: {', '.join(text)}"


def random_numbers(runtime: Runtime) -> str:
    """Mean and deviation of random numbers, and dropout."""
    with nn.context_scope(runtime.context()):
        uniform, normal = F.rand(0, 1, (SAMPLES,)), F.randn(0, 1, (SAMPLES,))
        dropped = F.dropout(nn.Variable.from_numpy_array(np.ones(SAMPLES, np.float32)), 0.5)
        nn.forward_all([uniform, normal, dropped])
    require_device(runtime, uniform, normal, dropped)
    values = float(uniform.d.mean()), float(normal.d.std()), float(dropped.d.mean())
    if not np.allclose(values, (0.5, 1, 1), atol=0.03):
        raise RuntimeError(f"mean, deviation and mean after dropout are {values}")
    return "mean {:.3f}, deviation {:.3f}, mean after dropout {:.3f}".format(*values)


def training(runtime: Runtime, half: bool) -> str:
    """A classifier of 3x3 convolution, batch normalisation and affine layer learns four images."""
    nn.clear_parameters()
    nn.seed(1)
    rng = np.random.default_rng(0)
    side = 6 if runtime.on_cpu else 32
    images = rng.standard_normal((4, 16, side, side)).astype(np.float32)
    labels = nn.Variable.from_numpy_array(np.arange(4).reshape(4, 1))
    scale = LOSS_SCALE if half else 1
    with nn.context_scope(runtime.context(half)):
        y = PF.convolution(nn.Variable.from_numpy_array(images), 32, (3, 3), pad=(1, 1), with_bias=False)
        with nn.context_scope(runtime.norm_context(half)):
            y = PF.batch_normalization(y)
        y = PF.affine(F.mean(F.relu(y), axis=(2, 3)), 4)
    with nn.context_scope(runtime.context()):
        loss = F.mean(F.softmax_cross_entropy(y, labels))
        solver = S.Adam(1e-2)
        solver.set_parameters(nn.get_parameters())
        losses = []
        for _ in range(STEPS):
            loss.forward(clear_no_need_grad=True)
            solver.zero_grad()
            loss.backward(scale, clear_buffer=True)
            solver.scale_grad(1 / scale)
            solver.update()
            losses.append(float(loss.d))
    require_device(runtime, loss)
    nn.clear_parameters()
    if not losses[-1] < 0.7 * losses[0]:
        raise RuntimeError(f"the loss goes from {losses[0]:.3f} to {losses[-1]:.3f} in {STEPS} steps")
    return f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {STEPS} steps"


def convolution_speed(runtime: Runtime, half: bool, channel_last: bool) -> str:
    """Milliseconds and TFLOP/s of a 3x3 convolution, forward and backward."""
    batch, channels, side, repeats = (2, 8, 8, 3) if runtime.on_cpu else (32, 256, 64, 10)
    rng = np.random.default_rng(0)
    shape = (batch, side, side, channels) if channel_last else (batch, channels, side, side)
    kernel = (channels, 3, 3, channels) if channel_last else (channels, channels, 3, 3)
    with nn.context_scope(runtime.context(half)):
        x, w = (
            nn.Variable.from_numpy_array(np.float32(0.1 * rng.standard_normal(s))).apply(need_grad=True)
            for s in (shape, kernel)
        )
        y = F.convolution(x, w, pad=(1, 1), channel_last=channel_last)
        milliseconds = {}
        for name, call in (("forward", y.forward), ("backward", y.backward)):
            call()
            synchronise(runtime)
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            synchronise(runtime)
            milliseconds[name] = 1000 * (time.perf_counter() - started) / repeats
    require_device(runtime, y)
    teraflop = MULTIPLY_ADD * 9 * y.size * channels / 1e12
    forward, backward = milliseconds["forward"], milliseconds["backward"]
    return (
        f"{batch} x {channels} x {side} x {side}: forward {forward:.2f} ms, {1000 * teraflop / forward:.2f} TFLOP/s; "
        f"backward {backward:.2f} ms, {2000 * teraflop / backward:.2f} TFLOP/s"
    )


if __name__ == "__main__":
    run_program(main)
