# SPDX-License-Identifier: Apache-2.0
"""The ONNX nodes of each NNabla function, for any batch size and any image size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nnabla as nn
import numpy as np
from nnabla.function import Function
from onnx import TensorProto

from pointdet.errors import PointDetError
from pointdet.export.deformable import deformable_convolution
from pointdet.export.nodes import ConvolutionConstants, Nodes

END = np.array([np.iinfo(np.int64).max])  # the end of an axis, for Slice


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
        *(op, nodes.name_of(x), weight, bias),
        kernel_shape=w.shape[2:],
        strides=args["stride"],
        pads=args["pad"] * 2,
        dilations=args["dilation"],
        group=args["group"],
    )
    if args["group"] == 1:
        nodes.convolutions[y] = ConvolutionConstants(weight, bias, out_axis)
    return y


def batch_normalization(nodes: Nodes, f: Function) -> str:
    """Folded into the convolution before it, or Mul and Add if other functions use its result too."""
    x = nodes.name_of(f.inputs[0])
    beta, gamma, mean, var = (nodes.value(v).astype(np.float64).ravel() for v in f.inputs[1:])
    scale = gamma / np.sqrt(var + f.info.args["eps"])
    shift = beta - mean * scale
    if x in nodes.convolutions and nodes.is_read_once(f.inputs[0]):
        weight, bias, axis = nodes.convolutions.pop(x)
        w = nodes.constants[weight]
        shape = [-1 if a == axis else 1 for a in range(w.ndim)]
        nodes.constants[weight] = np.asarray(w * scale.reshape(shape), np.float32)
        nodes.constants[bias] = np.asarray(nodes.constants[bias] * scale + shift, np.float32)
        return x
    scaled = nodes.add("Mul", x, np.asarray(scale.reshape(-1, 1, 1), np.float32))
    return nodes.add("Add", scaled, np.asarray(shift.reshape(-1, 1, 1), np.float32))


def max_pooling(nodes: Nodes, f: Function) -> str:
    args = f.info.args
    return nodes.add(
        *("MaxPool", nodes.name_of(f.inputs[0])),
        kernel_shape=args["kernel"],
        strides=args["stride"],
        pads=args["pad"] * 2,
    )


def interpolate(nodes: Nodes, f: Function) -> str:
    """Upsampling by integer factors: nearest, or linear with half-pixel centres."""
    args, x = f.info.args, f.inputs[0]
    scales = np.ones(4, np.float32)
    scales[2:] = np.divide(args["output_size"], x.shape[2:])
    mode = (
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        if args["half_pixel"]
        else {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    )
    with nodes.in_float():
        return nodes.add("Resize", nodes.name_of(x), "", scales, **mode)


def slice_(nodes: Nodes, f: Function) -> str:
    """A slice of channels. A slice of rows or columns would be correct for one image size only.

    Errors: PointDetError for other slices.
    """
    x, args = f.inputs[0], f.info.args
    partial = [a for a, size in enumerate(f.outputs[0].shape) if size != x.shape[a]]
    if partial != [1]:
        raise PointDetError(f"this network cannot be exported to ONNX: a slice of {x.shape} along {partial}")
    start, stop, step = (np.array([args[name][1]]) for name in ("start", "stop", "step"))
    return nodes.add("Slice", nodes.name_of(x), start, stop, np.array([1]), step)


def concatenate(nodes: Nodes, f: Function) -> str:
    """Concatenation, or a step of corner pooling."""
    step = corner_pool_step(f)
    if step is None:
        return nodes.add("Concat", *(nodes.name_of(v) for v in f.inputs), axis=f.info.args["axis"])
    # The maximum of the map and its copy shifted by `shift` cells with -inf padding: correct for any size.
    x, axis, shift, forwards = step
    name, pads = nodes.name_of(x), np.zeros(8, np.int64)
    pads[axis + 4 * forwards] = shift
    padded = nodes.add("Pad", name, pads, np.array(-np.inf, np.float32))
    start, stop = (np.array([shift]), END) if forwards else (np.array([0]), np.array([-shift]))
    return nodes.add("Max", name, nodes.add("Slice", padded, start, stop, np.array([axis])))


def corner_pool_step(f: Function) -> tuple[nn.Variable, int, int, bool] | None:
    """Recognise a concatenation that ends a step of `ops.pooling.corner_pool`; None for all others.

    Returns: the input map of the step, the axis, the shift in cells, and whether the maximum includes later
    cells (True) or earlier cells (False) of the axis.
    """
    kinds = [v.parent.info.type_name if v.parent is not None else "" for v in f.inputs]
    if sorted(kinds) != ["Maximum2", "Slice"]:
        return None
    forwards = kinds[0] == "Maximum2"
    axis, rest = f.info.args["axis"], f.inputs[1 if forwards else 0]
    return rest.parent.inputs[0], axis, rest.shape[axis], forwards


def maximum(nodes: Nodes, f: Function) -> str:
    return nodes.add("ReduceMax", nodes.name_of(f.inputs[0]), axes=f.info.args["axes"], keepdims=1)


def broadcast(nodes: Nodes, f: Function) -> str:
    """Broadcast the maxima of rows or columns to the size of the map that they were computed from.

    Errors: PointDetError for other broadcasts.
    """
    reduced = f.inputs[0]
    if reduced.parent is None or reduced.parent.info.type_name != "Max":
        raise PointDetError(f"this network cannot be exported to ONNX: a broadcast of {reduced.shape}")
    shape = nodes.add("Shape", nodes.name_of(reduced.parent.inputs[0]))
    return nodes.add("Expand", nodes.name_of(reduced), shape)


def equal(nodes: Nodes, f: Function) -> str:
    same = nodes.add("Equal", *(nodes.name_of(v) for v in f.inputs))
    return nodes.add("Cast", same, to=TensorProto.FLOAT)


def sigmoid(nodes: Nodes, f: Function) -> str:
    """Computed in float32: probabilities and masks are always float32."""
    return nodes.add("Sigmoid", nodes.as_float(nodes.name_of(f.inputs[0])))


def elementwise(op: str) -> Callable[[Nodes, Function], str]:
    """The emitter of a function with an ONNX operator of the same inputs and no attributes."""

    def emit(nodes: Nodes, f: Function) -> str:
        return nodes.add(op, *(nodes.name_of(v) for v in f.inputs))

    return emit


EMITTERS: dict[str, Callable[[Nodes, Any], str]] = {
    "Add2": elementwise("Add"),
    "BatchNormalization": batch_normalization,
    "Broadcast": broadcast,
    "Concatenate": concatenate,
    "Convolution": convolution,
    "Deconvolution": deconvolution,
    "DeformableConvolution": deformable_convolution,
    "Equal": equal,
    "Identity": elementwise("Identity"),
    "Interpolate": interpolate,
    "Max": maximum,
    "MaxPooling": max_pooling,
    "Mul2": elementwise("Mul"),
    "ReLU": elementwise("Relu"),
    "Sigmoid": sigmoid,
    "Slice": slice_,
}
