# SPDX-License-Identifier: Apache-2.0
"""The detectors by name: Config and number of classes -> Detector."""

from __future__ import annotations

from pointdet.backbones import catalogue as backbones
from pointdet.codec import Codec
from pointdet.config.schema import Config, CornerDetectorConfig, TripletConfig
from pointdet.detectors.common.base import Detector, Head, Loss
from pointdet.detectors.cornernet.codec import CornerNetCodec
from pointdet.detectors.cornernet.head import CornerNetHead
from pointdet.detectors.cornernet.loss import CornerNetLoss
from pointdet.detectors.ctdet.codec import CtDetCodec
from pointdet.detectors.ctdet.head import CtDetHead
from pointdet.detectors.ctdet.loss import CtDetLoss
from pointdet.detectors.triplet.codec import KEYPOINTS, TripletCodec
from pointdet.detectors.triplet.head import TripletHead


def build(config: Config, num_classes: int) -> Detector:
    """The detector of a configuration. Its parameters are created with its first graph."""
    settings, precision, channels = config.detector, config.mixed_precision, config.model.head_channels
    height, width = config.input.height, config.input.width
    head: Head
    loss: Loss
    codec: Codec
    pooling_channels = config.model.feature_channels or channels
    if isinstance(settings, TripletConfig):
        head = TripletHead(num_classes, pooling_channels, channels)
        loss = CornerNetLoss.of(settings, KEYPOINTS)
        codec = TripletCodec(CornerNetCodec.of(settings, num_classes, height, width))
    elif isinstance(settings, CornerDetectorConfig):
        head = CornerNetHead(num_classes, pooling_channels, channels)
        loss = CornerNetLoss.of(settings)
        codec = CornerNetCodec.of(settings, num_classes, height, width)
    else:
        head = CtDetHead(num_classes, channels, settings.legacy_heatmap_bias, settings.size_per_class)
        loss = CtDetLoss(
            settings.heatmap_weight,
            settings.size_weight,
            settings.offset_weight,
            settings.regression_loss,
            settings.size_per_class,
        )
        codec = CtDetCodec.of(settings, num_classes, height, width)
    return Detector(
        backbone=backbones.build(config.model),
        head=head,
        loss=loss,
        codec=codec,
        # Tensor cores need a multiple of 4 channels. The published mixed precision files have 4.
        image_channels=4 if precision.mixed_precision else 3,
        channel_last=precision.channel_last,
    )
