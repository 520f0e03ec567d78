# SPDX-License-Identifier: Apache-2.0
"""Checks of an .nnp file before NNabla loads it: NNabla trusts the sizes in the file, and a stride of 0 ends the process.

The text of the network has at most 16 MiB, and its variables have at most 2^31 values.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from google.protobuf import message, text_format

from pointdet.available_memory import require
from pointdet.weights import h5_file, zip_file

TEXT, ARRAYS, VERSION = "network.nntxt", "parameter.h5", "nnp_version.txt"  # the members that NNabla writes
MAX_TEXT = 1 << 24  # bytes
MAX_VALUES = 1 << 31  # of a variable
STEPS = {"stride", "dilation", "kernel", "group"}  # parameters of functions by which NNabla divides

ERRORS = (*zip_file.ERRORS, text_format.ParseError, message.DecodeError)


def check(path: Path) -> None:
    """Errors: those of `ERRORS` for a file that is damaged or not as NNabla writes it; PointDetError for its arrays."""
    with zip_file.opened(path) as archive:
        total = zip_file.check_sizes(archive, path.stat().st_size)
        require(total, f"reading {path}", "give an exported network")
        if sorted(archive.namelist()) != sorted((TEXT, ARRAYS, VERSION)):
            raise ValueError(f"it has other members than {TEXT}, {ARRAYS} and {VERSION}")
        if archive.getinfo(TEXT).file_size > MAX_TEXT:
            raise ValueError(f"{TEXT} has more than {MAX_TEXT >> 20} MiB")
        text, arrays = archive.read(TEXT), archive.read(ARRAYS)
    _check_network(text.decode("utf-8"))
    h5_file.check(path, arrays)


def _check_network(text: str) -> None:
    from nnabla.utils import nnabla_pb2

    proto: Any = nnabla_pb2.NNablaProtoBuf()
    text_format.Merge(text, proto)
    for network in proto.network:
        for variable in network.variable:
            sides = list(variable.shape.dim)
            if min(sides, default=1) < 1 or math.prod(sides) > MAX_VALUES:
                raise ValueError(f"the variable {variable.name} has an impossible shape")
        for function in network.function:
            for field, parameters in function.ListFields():
                if field.message_type is not None:
                    _check_steps(function.name, parameters)


def _check_steps(name: str, parameters: Any) -> None:
    """`parameters`: those of a function, in a message; a list of other fields has no descriptor."""
    for field in parameters.DESCRIPTOR.fields if hasattr(parameters, "DESCRIPTOR") else ():
        if field.name in STEPS:
            value = getattr(parameters, field.name)  # 0 if the text has none
            steps = list(value.dim) if hasattr(value, "dim") else [value]
            if min(steps, default=1) < 1:
                raise ValueError(f"{field.name} of {name} is not positive")
