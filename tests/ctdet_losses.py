# SPDX-License-Identifier: Apache-2.0
"""Losses of CenterNet with their gradients, and the golden cases of them."""

import nnabla as nn
import numpy as np

OUTPUTS = {"heatmap": "hm", "size": "wh", "offset": "reg"}
# The official code clamps the probability to [1e-4, 1 - 1e-4]; there its gradient is 0, but ours is not.
CLAMP = float(np.log((1 - 1e-4) / 1e-4))
KERNELS = {}  # "kernels": as `Mode.kernels`


def variables(arrays, need_grad=False):
    return {name: nn.Variable.from_numpy_array(a, need_grad=need_grad) for name, a in arrays.items()}


def run(loss, stacks, targets, layer=lambda output: output, scale=1.0):
    """Terms and the gradients of the total with respect to every output of every stack."""
    targets = {"weight": np.ones(len(targets["heatmap"]), np.float32), **targets}
    targets["positives"] = (targets["heatmap"] == 1).sum((1, 2, 3))[:, None]
    counts = loss.count(targets)
    outputs = [variables(stack, need_grad=True) for stack in stacks]
    divisors = dict(
        zip(loss.divisors, (nn.Variable.from_numpy_array(np.float32(c)) for c in counts), strict=True)
    )
    through = [{name: layer(v) for name, v in stack.items()} for stack in outputs]
    terms = loss(through, variables(targets), divisors, **KERNELS)
    for term in terms.values():
        term.persistent = True
    for stack in outputs:
        for output in stack.values():
            output.grad.zero()
    terms["total"].forward()
    terms["total"].backward(scale)
    values = {name: float(term.d) for name, term in terms.items()}
    return values, [{name: np.float64(v.g) / scale for name, v in stack.items()} for stack in outputs]


def case(golden, system, name):
    """Predictions, targets and expected numbers of one stored case."""
    z = {
        k.removeprefix(f"{system}/"): v
        for k, v in golden("ctdet_losses.npz").items()
        if k.startswith(f"{system}/")
    }
    batch = {
        "heatmap": z["nopos/hm"] if name == "nopos" else z["batch/hm"],
        "size": z["batch/wh"],
        "offset": z["batch/reg"],
        "index": z["batch/ind"],
        "mask": z["batch/reg_mask"].reshape(len(z["batch/ind"]), -1) * (name != "nopos"),
    }
    batch = {k: v.astype(np.float32) for k, v in batch.items()}
    expected = {k.removeprefix(f"{name}/"): v for k, v in z.items() if k.startswith(f"{name}/")}
    return z, batch, expected
