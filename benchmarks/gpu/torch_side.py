# SPDX-License-Identifier: Apache-2.0
"""The same training step in PyTorch: the graph that dump.py wrote, function by function.

python3 benchmarks/gpu/torch_side.py FILE...: FILE is the path of a .json file of dump.py. Needs Python 3.8 or
newer with NumPy and PyTorch 2.3 or newer for the card, and nothing of PointDet or NNabla. Without torchvision,
deformable convolutions are built from other functions of PyTorch: the numbers are the same, but the speed of
such a network says nothing.

Prints the loss of the first step, which must be the one of dump.py and of speed.py in float NCHW, and the
images per second of whole steps (batch to the card, forward, backward, fused Adam): in float, in float with
TF32, and in mixed precision with channels-last. On a CPU mixed precision is bfloat16.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

try:
    import torch
    import torch.nn.functional as T
except ImportError as missing:
    sys.exit(f"error: this script needs PyTorch ({missing}); run it with a Python that has it")
try:
    from torchvision.ops import deform_conv2d
except (ImportError, RuntimeError):  # not installed, or built for another PyTorch
    deform_conv2d = None

# Functions of the network. All others, colour matrix and losses, are float32 as in PointDet.
NETWORK = {
    "Add2",
    "BatchNormalization",
    "Broadcast",
    "Concatenate",
    "Convolution",
    "Deconvolution",
    "Interpolate",
    "Max",
    "Maximum2",
    "MaxPooling",
    "ReLU",
    "Slice",
}
JOINS = {"Add2", "Concatenate", "Maximum2"}  # autocast leaves their inputs in different types
KINDS = (  # name, mixed precision and channels-last, TF32
    ("float NCHW", False, False),
    ("float NCHW TF32", False, True),
    ("half NHWC", True, False),
)
WARM_UP = 3  # steps


def convolution(x, w, *rest):
    bias, a = (rest[0] if len(rest) == 3 else None), rest[-2]
    return T.conv2d(x, w, bias, a["stride"], a["pad"], a["dilation"], a["group"])


def deconvolution(x, w, a, _):
    return T.conv_transpose2d(x, w, None, a["stride"], a["pad"], groups=a["group"])


def batch_normalisation(x, beta, gamma, mean, var, a, _):
    momentum = 1 - a["decay_rate"]
    vectors = [v.view(-1) for v in (mean, var, gamma, beta)]
    return T.batch_norm(x, *vectors, a["batch_stat"], momentum, a["eps"])


def deformable_convolution(x, w, offset, mask, bias, a, _):
    if deform_conv2d is not None:
        return deform_conv2d(x, offset, w, bias, a["stride"], a["pad"], a["dilation"], mask)
    assert a["stride"] == a["dilation"] == [1, 1] and tuple(a["pad"]) == (1, 1), a
    batch, channels, height, width = x.shape
    rows = torch.arange(height, device=x.device, dtype=x.dtype)[:, None]
    columns = torch.arange(width, device=x.device, dtype=x.dtype)
    padded = T.pad(x, (1, 1, 1, 1))  # samples outside of the map are 0
    samples = []
    for k in range(9):
        # Position in the padded map, then from -1 to 1.
        y = offset[:, 2 * k] + rows + k // 3
        z = offset[:, 2 * k + 1] + columns + k % 3
        grid = torch.stack((2 * z / (width + 1) - 1, 2 * y / (height + 1) - 1), dim=-1)
        samples.append(T.grid_sample(padded, grid, align_corners=True) * mask[:, k : k + 1])
    values = torch.stack(samples, dim=2).reshape(batch, 9 * channels, height * width)
    return (w.reshape(len(w), -1) @ values).reshape(batch, -1, height, width) + bias.view(1, -1, 1, 1)


def interpolate(x, a, _):
    size = tuple(a["output_size"])
    if a["mode"] == "nearest":
        return T.interpolate(x, size=size, mode="nearest")
    assert a["half_pixel"] and not a["align_corners"], a
    return T.interpolate(x, size=size, mode="bilinear", align_corners=False)


def matmul(x, y, a, _):
    return torch.matmul(x.mT if a["transpose_a"] else x, y.mT if a["transpose_b"] else y)


def gather(x, index, a, _):
    assert (a["axis"], a["batch_dims"], x.ndim) == (2, 1, 3), a
    return torch.gather(x, 2, index.long()[:, None].expand(-1, x.shape[1], -1))


def huber(x, y, a, _):
    """NNabla's Huber loss is twice as large as PyTorch's."""
    return 2 * T.huber_loss(x, y, reduction="none", delta=a["delta"])


def slices(x, a, _):
    return x[tuple(slice(*ends) for ends in zip(a["start"], a["stop"], a["step"]))]  # noqa: B905


def total(x, a, _):
    return x.sum(a["axes"], a["keep_dims"]) if a["axes"] else x


RULES = {  # type -> function of (inputs..., arguments, shape of the output)
    "AbsoluteError": lambda x, y, a, s: (x - y).abs(),
    "Abs": lambda x, a, s: x.abs(),
    "Add2": lambda x, y, a, s: x + y,
    "AddScalar": lambda x, a, s: x + a["val"],
    "BatchMatmul": matmul,
    "BatchNormalization": batch_normalisation,
    "Broadcast": lambda x, a, s: x.expand(s),
    "Concatenate": lambda *r: torch.cat(r[:-2], r[-2]["axis"]),
    "Convolution": convolution,
    "Deconvolution": deconvolution,
    "DeformableConvolution": deformable_convolution,
    "Div2": lambda x, y, a, s: x / y,
    "EqualScalar": lambda x, a, s: (x == a["val"]).float(),
    "Exp": lambda x, a, s: x.exp(),
    "Gather": gather,
    "HuberLoss": huber,
    "Identity": lambda x, a, s: x,
    "Interpolate": interpolate,
    "Log": lambda x, a, s: x.log(),
    "LogSigmoid": lambda x, a, s: T.logsigmoid(x),
    "Max": lambda x, a, s: x.amax(a["axes"], a["keep_dims"]),
    "Maximum2": lambda x, y, a, s: torch.maximum(x, y),
    "MaximumScalar": lambda x, a, s: x.clamp(min=a["val"]),
    "MaxPooling": lambda x, a, s: T.max_pool2d(x, a["kernel"], a["stride"], a["pad"]),
    "Mul2": lambda x, y, a, s: x * y,
    "MulScalar": lambda x, a, s: x * a["val"],
    "ReLU": lambda x, a, s: torch.relu(x),
    "Reshape": lambda x, a, s: x.reshape(s),
    "RSubScalar": lambda x, a, s: a["val"] - x,
    "Sigmoid": lambda x, a, s: x.sigmoid(),
    "Slice": slices,
    "SquaredError": lambda x, y, a, s: (x - y) ** 2,
    "Sub2": lambda x, y, a, s: x - y,
    "Sum": total,
    "Transpose": lambda x, a, s: x.permute(a["axes"]),
}


class Graph:
    """A graph of dump.py with its arrays on the device."""

    def __init__(self, file: Path, device: str) -> None:
        """Stops the script if a function of the graph has no rule."""
        stored = json.loads(file.read_text(encoding="utf-8"))
        self.functions, self.images = stored["functions"], stored["images"]
        unknown = {function["type"] for function in self.functions} - set(RULES)
        if unknown:
            sys.exit(f"error: {file}: torch_side.py has no rule for {', '.join(sorted(unknown))}")
        arrays = np.load(file.with_suffix(".npz"))
        self.device, self.half = device, torch.float16 if device == "cuda" else torch.bfloat16
        self.values = {name: torch.from_numpy(arrays[name]).to(device) for name in arrays.files}
        self.batch = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith("i/")}
        if device == "cuda":
            self.batch = {name: array.pin_memory() for name, array in self.batch.items()}
        self.learned = [self.values[name].requires_grad_() for name in stored["learned"]]
        self.last_use = {name: n for n, f in enumerate(self.functions) for name in f["inputs"]}

    def use_channels_last(self) -> None:
        for parameter in self.learned:
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def feed(self) -> None:
        """Copy the batch to the device."""
        for name, array in self.batch.items():
            self.values[name].copy_(array, non_blocking=True)

    def loss(self, mixed: bool) -> torch.Tensor:
        """The forward pass. mixed: the network in mixed precision and channels-last."""
        values = dict(self.values)
        for number, function in enumerate(self.functions):
            inputs = [values[name] for name in function["inputs"]]
            values[function["outputs"][0]] = self._output(function, inputs, mixed)
            for name in set(function["inputs"]):
                if self.last_use[name] == number and name.startswith("v"):
                    del values[name]
        return values[self.functions[-1]["outputs"][0]]

    def _output(self, function: dict, inputs: list, mixed: bool) -> torch.Tensor:
        kind, shape, arguments = function["type"], function["shapes"][0], function["arguments"]
        of_batch = any(name.startswith("i/") for name in function["inputs"])
        if not mixed or kind not in NETWORK or len(shape) != 4 or of_batch:
            return RULES[kind](*[x.float() for x in inputs], arguments, shape)
        if kind == "Convolution" and function["inputs"][0].startswith("v"):
            inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device, self.half):
            if kind in JOINS and all(name.startswith("v") for name in function["inputs"]):
                inputs = [x.to(self.half) for x in inputs]
            return RULES[kind](*inputs, arguments, shape)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help=".json files of dump.py")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, default=10, help="measured steps (default: 10)")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit(f"error: PyTorch {torch.__version__} finds no card; use a build for CUDA, or --device cpu")
    card = torch.cuda.get_device_name() if args.device == "cuda" else "the CPU"
    print(f"PyTorch {torch.__version__} on {card}")
    source = (
        "torchvision's" if deform_conv2d is not None else "built from other functions, without torchvision"
    )
    print(f"deformable convolutions: {source}\n")
    print(f"{'':<34}{'kind':<16}{'images':>7}{'images/s':>10}{'step, ms':>10}")
    torch.backends.cudnn.benchmark = True
    for file in args.files:
        for kind, mixed, tf32 in KINDS:
            if args.device == "cpu":
                kind = kind.replace("half", "bfloat16")
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            measure(file, kind, mixed, args.device, args.steps)
    return 0


def measure(file: Path, kind: str, mixed: bool, device: str, steps: int) -> None:
    """Print the row of one graph and kind."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    graph = Graph(file, device)
    if mixed:
        graph.use_channels_last()
    adam = torch.optim.Adam(graph.learned, lr=1e-4, fused=device == "cuda")
    scaler = torch.amp.GradScaler(device, enabled=mixed and device == "cuda")

    def step() -> torch.Tensor:
        graph.feed()
        adam.zero_grad(set_to_none=True)
        loss = graph.loss(mixed)
        scaler.scale(loss).backward()
        scaler.step(adam)
        scaler.update()
        return loss.detach()

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    first = step().item()
    for _ in range(WARM_UP):
        step()
    wait()
    started = time.perf_counter()
    for _ in range(steps):
        loss = step()
    wait()
    seconds = (time.perf_counter() - started) / steps
    memory = torch.cuda.max_memory_allocated() >> 20 if device == "cuda" else 0
    print(
        f"{file.stem:<34}{kind:<16}{graph.images:7}{graph.images / seconds:10.2f}{1000 * seconds:10.1f}\n"
        f"{'':<34}loss of the first step {first:.5f}, of the last {loss.item():.5f}; {memory} MiB",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
