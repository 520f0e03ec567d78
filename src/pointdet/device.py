# SPDX-License-Identifier: Apache-2.0
"""Check of the GPU that NNabla uses."""

from __future__ import annotations

import logging

import nnabla as nn
import nnabla.functions as F
from nnabla.ext_utils import get_extension_context

from pointdet.errors import PointDetError, last_line

logging.getLogger("nnabla").setLevel(logging.WARNING)  # NNabla logs every solver state that it saves or loads


def require_cuda(gpu: int) -> None:
    """Check that NNabla computes on GPU number `gpu`.

    Without a working GPU NNabla uses the CPU and gives no warning.
    Errors: PointDetError if NNabla has no CUDA extension or computes on the CPU.
    """
    try:
        context = get_extension_context("cudnn", device_id=str(gpu), type_config="float")
        with nn.context_scope(context):
            probe = F.relu(nn.Variable((1,)))
            probe.forward()
    except Exception as error:  # noqa: BLE001  any C++ exception, or a missing extension
        raise PointDetError(
            f"the GPU cannot be used ({last_line(error)}); install nnabla-ext-cuda120 with CUDA 12 "
            "and cuDNN 8, or choose --extension_module cpu"
        ) from None
    if "Cuda" not in probe.parent.info.type_name:
        raise PointDetError(
            "NNabla computes on the CPU although cudnn was requested; check the CUDA installation"
        )
