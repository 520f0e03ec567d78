# SPDX-License-Identifier: Apache-2.0
"""The keys of the section `detector`, for each detector."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pointdet.config.section import Fraction, Keypoints, NotNegative, Objects, Section


class DetectorConfig(Section):
    """The keys that all detectors share."""

    name: str
    """Selects the detector."""
    max_objects: Objects = 128
    """Maximum number of training objects per image; further objects are left out, with a warning."""
    nms_kernel: Literal[1, 3, 5, 7, 9] = 3
    """Side of the window, in cells of a heatmap, in which a peak must be the highest cell. 1: every cell is a
    peak."""
    suppression: Literal["gaussian", "linear", "hard"] = "gaussian"
    """Decay of the scores in soft-NMS, see nms_sigma and nms_threshold. Corner detectors always apply it, ctdet
    with several test scales or test.soft_nms."""
    nms_sigma: float = Field(default=0.5, gt=0.0, le=1e3)
    """suppression ``gaussian``: a selected box multiplies the scores of others by exp(-IoU^2 / nms_sigma)."""
    nms_threshold: Fraction = 0.5
    """suppression ``linear`` and ``hard``: above this IoU a selected box multiplies the scores of others by
    1 - IoU, or by 0."""


class CtDetConfig(DetectorConfig):
    """CenterNet (Zhou et al., 2019)."""

    name: Literal["ctdet"] = "ctdet"
    """Selects the detector."""
    radius: Literal["published", "iou"] = "published"
    """Radius of the Gaussian targets. ``iou``: boxes whose corners are off by up to the radius keep an IoU of
    min_overlap. ``published``: the formula of the published code, which gives a radius about 3.3 times as
    large."""
    min_overlap: float = Field(default=0.7, gt=0.0, lt=1.0)
    """IoU from which the radius is computed."""
    heatmap_weight: NotNegative = 1.0
    """Weight of the heatmap loss (focal loss)."""
    size_weight: NotNegative = 0.1
    """Weight of the size loss."""
    offset_weight: NotNegative = 1.0
    """Weight of the offset loss."""
    regression_loss: Literal["l1", "smooth_l1"] = "l1"
    """Loss of sizes and offsets: ``l1``, the mean over two coordinates, or ``smooth_l1``, their sum."""
    size_per_class: bool = False
    """Predict the size for each class separately: two maps per class instead of two maps."""
    legacy_heatmap_bias: bool = False
    """Also initialise the bias of the heatmap branch's 3x3 convolution to -2.19, as the NNabla example does.
    Its ReLUs are then inactive at the start of training."""


class CornerDetectorConfig(DetectorConfig):
    """The keys that CornerNet and keypoint triplets share."""

    radius: Literal["published", "iou"] = "iou"
    """Radius of the Gaussian targets. ``iou``: boxes whose corners are off by up to the radius keep an IoU of
    min_overlap. ``published``: the formula of the published CenterNet code, which gives a larger radius."""
    min_overlap: float = Field(default=0.3, gt=0.0, lt=1.0)
    """IoU from which the radius is computed."""
    pull_weight: NotNegative = 0.5
    """Weight of the pull loss, which makes the two tags of an object equal."""
    push_weight: NotNegative = 0.5
    """Weight of the push loss, which separates the tags of different objects."""
    offset_weight: NotNegative = 1.0
    """Weight of the offset loss."""
    embedding_loss: Literal["mean", "published"] = "mean"
    """Reduction of the pull and push losses. ``mean``: the mean over images, which does not depend on the
    batch size and the number of ranks. ``published``: the sum over the images of each forward pass; the
    published weights for it are 0.1, with 5 images per pass."""
    top_k: Keypoints = 100
    """Number of top-left corners, and of bottom-right corners, that are paired; over all classes together."""
    candidates: Objects = 1000
    """Number of corner pairs kept before soft-NMS, per test scale and separately for the mirror image; at
    least test.max_detections."""
    tag_distance: NotNegative = 0.5
    """Maximum distance between the tags of the two corners of one object. A lower value helps if boxes span
    two objects."""
    merge_exponent: NotNegative = 0.0
    """Above 0, a detection's box becomes a weighted mean of itself and the boxes that it suppresses; a lower
    exponent gives these more weight. The published code uses 10 with several test scales. 0 is off."""
    published: bool = False
    """Reproduce the results of the published CornerNet code, with its errors: boxes of the mirror image are
    shifted by one pixel, soft-NMS returns outdated copies of boxes, and merge_exponent uses the scores of
    other boxes."""


class CornerNetConfig(CornerDetectorConfig):
    """CornerNet (Law and Deng, 2018)."""

    name: Literal["cornernet"] = "cornernet"
    """Selects the detector."""


class TripletConfig(CornerDetectorConfig):
    """CenterNet with keypoint triplets (Duan et al., 2019). Its defaults differ from CornerNet's."""

    name: Literal["triplet"] = "triplet"
    """Selects the detector."""
    radius: Literal["published", "iou"] = "published"
    """Radius of the Gaussian targets, as for CornerNet."""
    min_overlap: float = Field(default=0.7, gt=0.0, lt=1.0)
    """IoU from which the radius is computed."""
    pull_weight: NotNegative = 0.6
    """Weight of the pull loss."""
    push_weight: NotNegative = 0.6
    """Weight of the push loss."""
    top_k: Keypoints = 70
    """Number of keypoints of each kind (two kinds of corners, centres), over all classes together."""
    published: bool = False
    """Reproduce the results of the published code of keypoint triplets, with its errors: those of CornerNet,
    and a box is scored with the first matching centre of scale 1 instead of the best matching centre of all
    scales."""
