# SPDX-License-Identifier: Apache-2.0
"""Terms of keypoint losses. The divisors are arguments, so that ranks can share them."""

from __future__ import annotations

import nnabla as nn
import nnabla.functions as F

from pointdet.ops.cpu import focal


def heatmap_focal(
    logits: nn.Variable,
    heatmap: nn.Variable,
    weight: nn.Variable,
    positives: nn.Variable,
    kernels: str = "nnabla",
) -> nn.Variable:
    """Focal loss of a Gaussian heatmap (Law & Deng, 2018, eq. 1; alpha 2, beta 4), divided by `positives`.

    logits, heatmap: (B, C, h, w); a cell of exactly 1 is a positive. weight: (B,); images of weight 0 are
    ignored. Both logarithms are computed from the logit without clamping, so saturated cells keep their
    gradients. kernels: "nnabla", or as `Mode.kernels` for a float32 graph on the CPU; then only the logits get a
    gradient.
    """
    if kernels != "nnabla":
        return focal.heatmap_focal(logits, heatmap, weight, positives)
    present, absent = F.log_sigmoid(logits), F.log_sigmoid(-1 * logits)
    positive = F.equal_scalar(heatmap, 1)
    # Products are sums of logarithms, also of 0 (its exp is 0 again): on the CPU F.mul2 is as slow as its
    # broadcasting.
    positive_weight = F.exp(F.log(positive) + 2 * absent)
    negative_weight = F.exp(4 * F.log(1 - heatmap) + 2 * present)
    per_image = _dot(positive_weight, present) + _dot(negative_weight, absent)
    return F.sum(per_image * weight) / (-1 * F.maximum_scalar(positives, 1))


def _dot(a: nn.Variable, b: nn.Variable) -> nn.Variable:
    """(B, ...) -> (B,): the sum of a * b for each image.

    On a GPU it is a product and a sum. A matrix product of one row and one column uses only a small part of a
    GPU. On the CPU it is several times faster than F.mul2.
    """
    if any(backend.startswith("cuda") for backend in nn.get_current_context().backend):
        return F.sum(a * b, axis=tuple(range(1, a.ndim)))
    row, column = F.reshape(a, (a.shape[0], 1, -1)), F.reshape(b, (b.shape[0], -1, 1))
    return F.reshape(F.batch_matmul(row, column), (a.shape[0],))


def gather_cells(maps: nn.Variable, index: nn.Variable) -> nn.Variable:
    """Maps (B, K, h, w) at the cells `index` (B, M), y * w + x -> (B, M, K)."""
    b, k, height, width = maps.shape
    cells = F.gather(F.reshape(maps, (b, k, height * width)), index, axis=2, batch_dims=1)
    return F.transpose(cells, (0, 2, 1))


def masked_l1(
    predicted: nn.Variable, target: nn.Variable, mask: nn.Variable, objects: nn.Variable
) -> nn.Variable:
    """Sum of |predicted - target| over (B, M, K) where mask (B, M) is 1, divided by 2 * objects + 1e-4.

    All published losses have the factor 2, the mean over two coordinates.
    """
    distance = F.absolute_error(predicted, target)
    per_object = F.sum(distance, axis=2)
    return F.sum(per_object * mask) / (2 * objects + 1e-4)


def masked_smooth_l1(
    predicted: nn.Variable, target: nn.Variable, mask: nn.Variable, objects: nn.Variable
) -> nn.Variable:
    """Sum of the smooth L1 distance over (B, M, K) where mask (B, M) is 1, divided by objects + 1e-4."""
    # NNabla's Huber loss is twice as large.
    per_object = F.sum(F.huber_loss(predicted, target, 1.0), axis=2) * 0.5
    return F.sum(per_object * mask) / (objects + 1e-4)


def pull_and_push(
    first: nn.Variable, second: nn.Variable, mask: nn.Variable
) -> tuple[nn.Variable, nn.Variable]:
    """Pull and push loss of the tags (Law & Deng, 2018, eq. 4 and 5): (B,) and (B,).

    first, second: (B, M), the tags of the two corners; mask (B, M). Pull is the mean over the objects of an
    image, push the mean over all pairs of two objects. The published push also has a constant without
    gradient, about 1 in images of one object.
    """
    count = F.sum(mask, axis=1)
    pull = F.sum(F.squared_error(first, second) * mask, axis=1) * 0.5 / (count + 1e-4)
    b, m = mask.shape
    mean = (first + second) * 0.5
    apart = F.abs(F.reshape(mean, (b, m, 1)) - F.reshape(mean, (b, 1, m)))
    both = F.reshape(mask, (b, m, 1)) * F.reshape(mask, (b, 1, m))
    close = F.sum(F.relu(1 - apart) * both, axis=(1, 2))
    push = (close - count) / (count * (count - 1) + 1e-4)  # each object is at distance 0 from itself
    return pull, push
