# SPDX-License-Identifier: Apache-2.0
"""Builder of an ONNX graph: its nodes and constants, and the names of NNabla's variables in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import nnabla as nn
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pointdet.arrays import Float32Array

Array = npt.NDArray[Any]


class ConvolutionConstants(NamedTuple):
    """The constants of a convolution. Batch normalisation after it is folded into them."""

    weight: str  # name
    bias: str  # name
    axis: int  # axis of the output channels in the weight


class Nodes:
    """The nodes and constants of an ONNX graph. Results of nodes and constants are addressed by name."""

    def __init__(self, functions: Iterable[nn.function.Function], half: bool = False) -> None:
        """Create an empty graph.

        Args:
            functions: the functions of the NNabla graph.
            half: float16 constants and results, except within `in_float`.
        """
        self._half = self._halving = half
        self._kept: set[str] = set()  # constants that stay float32
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.convolutions: dict[str, ConvolutionConstants] = {}  # by the name of the convolution's result
        self._names: dict[nn.Variable, str] = {}
        self._counts: Counter[str] = Counter()
        self._readers = Counter(v for f in functions for v in f.inputs)

    def add(self, op: str, *inputs: str | Array, **attributes: Any) -> str:
        """Add a node with one result and return its name. Arrays among the inputs become constants."""
        self._counts[op] += 1
        name = f"{op}_{self._counts[op]}"
        operands = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        self.nodes.append(helper.make_node(op, operands, [name], name, **attributes))
        return name

    def constant(self, array: Array) -> str:
        """Add a constant and return its name."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = array
        if not self._halving:
            self._kept.add(name)
        return name

    @contextmanager
    def in_float(self) -> Iterator[None]:
        """Within this context, new constants stay float32."""
        before, self._halving = self._halving, False
        yield
        self._halving = before

    def as_float(self, name: str) -> str:
        """The name of a result in float32: with half precision a cast, otherwise the result itself."""
        return self.add("Cast", name, to=onnx.TensorProto.FLOAT) if self._half else name

    def as_half(self, name: str) -> str:
        """The name of a float32 result in the graph's precision, with half precision a cast to float16."""
        return self.add("Cast", name, to=onnx.TensorProto.FLOAT16) if self._half else name

    def bind(self, variable: nn.Variable, name: str) -> None:
        """Give a variable of NNabla its name in this graph."""
        self._names[variable] = name

    def depends(self, variable: nn.Variable) -> bool:
        """Whether the variable depends on the image, that is, was bound. All others are constants."""
        return variable in self._names

    def name_of(self, variable: nn.Variable) -> str:
        """The name of a bound variable, or of a new constant with the value of the variable."""
        return self._names[variable] if variable in self._names else self.constant(self.value(variable))

    def value(self, variable: nn.Variable) -> Float32Array:
        """The value of a variable that does not depend on the image, float32."""
        if variable.parent is not None:
            variable.forward()
        return np.array(variable.d, np.float32)

    def is_read_once(self, variable: nn.Variable) -> bool:
        """Whether exactly one function has the variable as an input."""
        return self._readers[variable] == 1

    def initializers(self) -> list[onnx.TensorProto]:
        """The constants that are inputs of a node."""
        used = {name for node in self.nodes for name in node.input}
        return [
            numpy_helper.from_array(self._stored(name, a), name)
            for name, a in self.constants.items()
            if name in used
        ]

    def _stored(self, name: str, array: Array) -> Array:
        if array.dtype != np.float32 or name in self._kept:
            return array
        with np.errstate(over="ignore"):  # the comparison of the outputs finds what becomes infinite
            return array.astype(np.float16)
