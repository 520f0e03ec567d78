# SPDX-License-Identifier: Apache-2.0
"""The detectors by name: a Config and a number of classes -> a Detector."""

from __future__ import annotations

from pointdet.backbones import catalogue as backbones
from pointdet.config.schema import Config, CtDet
from pointdet.detectors.base import Detector
from pointdet.detectors.ctdet.codec import CtDetCodec
from pointdet.detectors.ctdet.head import CtDetHead
from pointdet.detectors.ctdet.loss import CtDetLoss
from pointdet.errors import PointDetError


def build(config: Config, num_classes: int) -> Detector:
    """The detector of a configuration; its parameters come into being with the first graph."""
    settings, precision = config.detector, config.mixed_precision
    if not isinstance(settings, CtDet):
        raise PointDetError(f"there is no network of {settings.name} yet; set detector.name to ctdet")
    return Detector(
        backbone=backbones.build(config.model),
        head=CtDetHead(num_classes, config.model.head_channels, settings.legacy_heatmap_bias),
        loss=CtDetLoss(settings.heatmap_weight, settings.size_weight, settings.offset_weight),
        codec=CtDetCodec.of(settings, num_classes, config.input.height, config.input.width),
        # Tensor cores want a multiple of 4 channels; the published mixed precision files have the fourth.
        image_channels=4 if precision.mixed_precision else 3,
        channel_last=precision.channel_last,
    )
