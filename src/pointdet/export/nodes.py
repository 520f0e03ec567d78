# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph while it is written: nodes and constants, and the names that NNabla's variables have in it."""

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

Array = npt.NDArray[Any]


class Linear(NamedTuple):
    """The constants of a convolution, which what follows it may change."""

    weight: str
    bias: str
    axis: int  # of the weight's output channels


class Nodes:
    """Results of nodes and constants go by their names."""

    def __init__(self, functions: Iterable[nn.function.Function], half: bool = False) -> None:
        """`functions`: of the NNabla graph. half: weights and results are float16, except within `in_float`."""
        self._half = self._halving = half
        self._kept: set[str] = set()  # constants that stay float32
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.linear: dict[str, Linear] = {}  # by the name of a convolution's result
        self._names: dict[nn.Variable, str] = {}
        self._counts: Counter[str] = Counter()
        self._readers = Counter(v for f in functions for v in f.inputs)

    def add(self, op: str, *inputs: str | Array, **attributes: Any) -> str:
        """A node with one result, whose name is returned; arrays become constants."""
        self._counts[op] += 1
        name = f"{op}_{self._counts[op]}"
        operands = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        self.nodes.append(helper.make_node(op, operands, [name], name, **attributes))
        return name

    def constant(self, array: Array) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = array
        if not self._halving:
            self._kept.add(name)
        return name

    @contextmanager
    def in_float(self) -> Iterator[None]:
        """Constants that are made here stay float32."""
        before, self._halving = self._halving, False
        yield
        self._halving = before

    def as_float(self, name: str) -> str:
        """A result, or what it is in float32."""
        return self.add("Cast", name, to=onnx.TensorProto.FLOAT) if self._half else name

    def as_half(self, name: str) -> str:
        """A float32 result, or what it is in float16 where that is the precision."""
        return self.add("Cast", name, to=onnx.TensorProto.FLOAT16) if self._half else name

    def bind(self, variable: nn.Variable, name: str) -> None:
        """`variable` is what goes by that name."""
        self._names[variable] = name

    def depends(self, variable: nn.Variable) -> bool:
        """Whether the variable depends on the image, as all do that were bound; the others are constants."""
        return variable in self._names

    def of(self, variable: nn.Variable) -> str:
        """The name of a variable that was bound, or of a new constant with its value."""
        return self._names[variable] if variable in self._names else self.constant(self.value(variable))

    def value(self, variable: nn.Variable) -> npt.NDArray[np.float32]:
        """Of a variable that does not depend on the image."""
        if variable.parent is not None:
            variable.forward()
        return np.array(variable.d, np.float32)

    def is_read_once(self, variable: nn.Variable) -> bool:
        return self._readers[variable] == 1

    def initializers(self) -> list[onnx.TensorProto]:
        """The constants that some node reads."""
        read = {name for node in self.nodes for name in node.input}
        return [
            numpy_helper.from_array(self._stored(name, a), name)
            for name, a in self.constants.items()
            if name in read
        ]

    def _stored(self, name: str, array: Array) -> Array:
        return array.astype(np.float16) if array.dtype == np.float32 and name not in self._kept else array
