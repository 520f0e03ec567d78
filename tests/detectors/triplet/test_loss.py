# SPDX-License-Identifier: Apache-2.0
"""The loss of keypoint triplets, CornerNet's with a third keypoint, against published values."""

import nnabla as nn
import numpy as np
import pytest
from corners import CLAMP, first_cells, placed, push_constant

from pointdet.config.schema import TripletConfig
from pointdet.detectors.cornernet.loss import CornerNetLoss
from pointdet.detectors.triplet.codec import KEYPOINTS

NAMES = [f"{kind}_{name}" for kind in KEYPOINTS for name in ("heatmap", "offset", "tag")]
NAMES.remove("centre_tag")
PUBLISHED = TripletConfig(pull_weight=0.1, push_weight=0.1, embedding_loss="published")


@pytest.mark.parametrize("kernels", ["nnabla", "blas"])
def test_published_total_terms_and_gradients(golden, kernels):
    z = golden("triplet_losses.npz")
    objects = z["target/mask"].shape[1]
    targets = {"mask": z["target/mask"], "weight": np.ones(2)}
    for kind in KEYPOINTS:
        heatmap = targets[f"{kind}_heatmap"] = z[f"target/{kind}_heatmap"]
        targets[f"{kind}_offset"] = z[f"target/{kind}_offset"]
        targets[f"{kind}_index"] = np.tile(np.arange(objects), (2, 1))
        targets[f"{kind}_positives"] = (heatmap == 1).sum((1, 2, 3))[:, None]
    targets = {name: np.asarray(array, np.float32) for name, array in targets.items()}

    stacks = []
    for stack in range(2):
        outputs = {}
        for name in NAMES:
            values = z[name][stack]
            if "heatmap" in name:
                outputs[name] = np.clip(values, -CLAMP, CLAMP)
            else:
                outputs[name] = placed(values if "offset" in name else values[..., None])
        stacks.append({n: nn.Variable.from_numpy_array(a, need_grad=True) for n, a in outputs.items()})
    loss = CornerNetLoss.of(PUBLISHED, KEYPOINTS)
    divisors = dict(zip(loss.divisors, loss.count(targets), strict=True))
    assert list(divisors) == [*(f"{kind}_positives" for kind in KEYPOINTS), "objects", "images"]
    terms = loss(
        stacks,
        {name: nn.Variable.from_numpy_array(array) for name, array in targets.items()},
        {name: nn.Variable.from_numpy_array(np.float32(count)) for name, count in divisors.items()},
        kernels,
    )
    for term in terms.values():
        term.persistent = True
    for outputs in stacks:
        for output in outputs.values():
            output.grad.zero()
    terms["total"].forward()
    terms["total"].backward()

    rest = 0.1 * push_constant(targets["mask"])
    weights = {"heatmap": 1, "pull": 0.1, "push": 0.1, "offset": 1, "total": 1}
    assert set(terms) == set(weights)
    for name, weight in weights.items():
        value = weight * float(terms[name].d) + rest * (name in ("push", "total"))
        assert value == pytest.approx(float(z[name]), rel=1e-5), name
    for stack, outputs in enumerate(stacks):
        for name in NAMES:
            found, wanted = outputs[name].g, z[f"gradient/{name}"][stack]
            if "heatmap" in name:
                inside = np.abs(z[name][stack]) < CLAMP
                found, wanted = found[inside], wanted[inside]
            else:
                found = first_cells(found, objects).reshape(wanted.shape)
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-8)
