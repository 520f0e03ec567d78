# SPDX-License-Identifier: Apache-2.0
"""What each of NNabla's functions is in ONNX, for any batch and any size of image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nnabla as nn
import numpy as np
from nnabla.function import Function
from onnx import TensorProto

from pointdet.errors import PointDetError
from pointdet.export.deformable import deformable_convolution
from pointdet.export.nodes import Linear, Nodes

END = np.array([np.iinfo(np.int64).max])


def convolution(nodes: Nodes, f: Function) -> str:
    return _convolution(nodes, f, "Conv", out_axis=0)


def deconvolution(nodes: Nodes, f: Function) -> str:
    return _convolution(nodes, f, "ConvTranspose", out_axis=1)


def _convolution(nodes: Nodes, f: Function, op: str, out_axis: int) -> str:
    x, w, *b = f.inputs
    args = f.info.args
    weight = nodes.constant(nodes.value(w))
    bias = nodes.constant(nodes.value(b[0]) if b else np.zeros(f.outputs[0].shape[1], np.float32))
    y = nodes.add(
        *(op, nodes.of(x), weight, bias),
        kernel_shape=w.shape[2:],
        strides=args["stride"],
        pads=args["pad"] * 2,
        dilations=args["dilation"],
        group=args["group"],
    )
    if args["group"] == 1:
        nodes.linear[y] = Linear(weight, bias, out_axis)
    return y


def batch_normalization(nodes: Nodes, f: Function) -> str:
    """Part of the convolution before it, where nothing else reads that, or a product and a sum."""
    x = nodes.of(f.inputs[0])
    beta, gamma, mean, var = (nodes.value(v).astype(np.float64).ravel() for v in f.inputs[1:])
    scale = gamma / np.sqrt(var + f.info.args["eps"])
    shift = beta - mean * scale
    if x in nodes.linear and nodes.is_read_once(f.inputs[0]):
        weight, bias, axis = nodes.linear.pop(x)
        w = nodes.constants[weight]
        along = [-1 if a == axis else 1 for a in range(w.ndim)]
        nodes.constants[weight] = np.asarray(w * scale.reshape(along), np.float32)
        nodes.constants[bias] = np.asarray(nodes.constants[bias] * scale + shift, np.float32)
        return x
    scaled = nodes.add("Mul", x, np.asarray(scale.reshape(-1, 1, 1), np.float32))
    return nodes.add("Add", scaled, np.asarray(shift.reshape(-1, 1, 1), np.float32))


def max_pooling(nodes: Nodes, f: Function) -> str:
    args = f.info.args
    return nodes.add(
        *("MaxPool", nodes.of(f.inputs[0])),
        kernel_shape=args["kernel"],
        strides=args["stride"],
        pads=args["pad"] * 2,
    )


def interpolate(nodes: Nodes, f: Function) -> str:
    """Whole multiples of the size: the nearest value, or linear with half-pixel centres."""
    args, x = f.info.args, f.inputs[0]
    scales = np.ones(4, np.float32)
    scales[2:] = np.divide(args["output_size"], x.shape[2:])
    how = (
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        if args["half_pixel"]
        else {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    )
    with nodes.in_float():
        return nodes.add("Resize", nodes.of(x), "", scales, **how)


def slice_(nodes: Nodes, f: Function) -> str:
    """Of channels; along the sides it would be right for one size of image only."""
    x, args = f.inputs[0], f.info.args
    partial = [a for a, size in enumerate(f.outputs[0].shape) if size != x.shape[a]]
    if partial != [1]:
        raise PointDetError(f"this network cannot be exported to ONNX: a slice of {x.shape} along {partial}")
    start, stop, step = (np.array([args[name][1]]) for name in ("start", "stop", "step"))
    return nodes.add("Slice", nodes.of(x), start, stop, np.array([1]), step)


def concatenate(nodes: Nodes, f: Function) -> str:
    part = doubling(f)
    if part is None:
        return nodes.add("Concat", *(nodes.of(v) for v in f.inputs), axis=f.info.args["axis"])
    # Beside a copy of the map moved by `reach` cells, where nothing came in, any size will do.
    x, axis, reach, forwards = part
    name, pads = nodes.of(x), np.zeros(8, np.int64)
    pads[axis + 4 * forwards] = reach
    padded = nodes.add("Pad", name, pads, np.array(-np.inf, np.float32))
    start, stop = (np.array([reach]), END) if forwards else (np.array([0]), np.array([-reach]))
    return nodes.add("Max", name, nodes.add("Slice", padded, start, stop, np.array([axis])))


def doubling(f: Function) -> tuple[nn.Variable, int, int, bool] | None:
    """Of the last function of a step of `ops.pooling.corner_pool`: map, axis, reach, whether it looks to the end."""
    kinds = [v.parent.info.type_name if v.parent is not None else "" for v in f.inputs]
    if sorted(kinds) != ["Maximum2", "Slice"]:
        return None
    forwards = kinds[0] == "Maximum2"
    axis, rest = f.info.args["axis"], f.inputs[1 if forwards else 0]
    return rest.parent.inputs[0], axis, rest.shape[axis], forwards


def largest(nodes: Nodes, f: Function) -> str:
    return nodes.add("ReduceMax", nodes.of(f.inputs[0]), axes=f.info.args["axes"], keepdims=1)


def broadcast(nodes: Nodes, f: Function) -> str:
    """To the size of the map whose rows or columns were reduced to their maximum."""
    reduced = f.inputs[0]
    if reduced.parent is None or reduced.parent.info.type_name != "Max":
        raise PointDetError(f"this network cannot be exported to ONNX: a broadcast of {reduced.shape}")
    shape = nodes.add("Shape", nodes.of(reduced.parent.inputs[0]))
    return nodes.add("Expand", nodes.of(reduced), shape)


def equal(nodes: Nodes, f: Function) -> str:
    same = nodes.add("Equal", *(nodes.of(v) for v in f.inputs))
    return nodes.add("Cast", same, to=TensorProto.FLOAT)


def sigmoid(nodes: Nodes, f: Function) -> str:
    """In float32, as probabilities and masks always are."""
    return nodes.add("Sigmoid", nodes.as_float(nodes.of(f.inputs[0])))


def same_name(op: str) -> Callable[[Nodes, Function], str]:
    def emit(nodes: Nodes, f: Function) -> str:
        return nodes.add(op, *(nodes.of(v) for v in f.inputs))

    return emit


EMITTERS: dict[str, Callable[[Nodes, Any], str]] = {
    "Add2": same_name("Add"),
    "BatchNormalization": batch_normalization,
    "Broadcast": broadcast,
    "Concatenate": concatenate,
    "Convolution": convolution,
    "Deconvolution": deconvolution,
    "DeformableConvolution": deformable_convolution,
    "Equal": equal,
    "Identity": same_name("Identity"),
    "Interpolate": interpolate,
    "Max": largest,
    "MaxPooling": max_pooling,
    "Mul2": same_name("Mul"),
    "ReLU": same_name("Relu"),
    "Sigmoid": sigmoid,
    "Slice": slice_,
}
