# SPDX-License-Identifier: Apache-2.0
"""Every YAML key: type, bounds, default and meaning. Unknown keys are errors.

The keys of the section `detector` are in `config/detectors.py`, those of `train` and `mixed_precision` in
`config/training.py`, and the bounds of numbers in `config/section.py`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from pointdet.config.detectors import CornerDetectorConfig, CornerNetConfig, CtDetConfig, TripletConfig
from pointdet.config.section import (
    Channels,
    Colour,
    Fraction,
    NotNegative,
    Objects,
    Positive,
    Scale,
    Section,
    Side,
)
from pointdet.config.training import LearningRateConfig, MixedPrecisionConfig, TrainConfig

__all__ = [
    "AugmentConfig",
    "Config",
    "CornerDetectorConfig",
    "CornerNetConfig",
    "CtDetConfig",
    "DatasetConfig",
    "InputConfig",
    "LearningRateConfig",
    "MixedPrecisionConfig",
    "ModelConfig",
    "RuntimeConfig",
    "SplitConfig",
    "TestConfig",
    "TrainConfig",
    "TripletConfig",
]


class SplitConfig(Section):
    """The files of one split of the dataset."""

    annotations: tuple[str, ...] = Field(min_length=1)
    """COCO: JSON files. VOC: image sets (``.../ImageSets/Main/trainval.txt``). Several are joined in this order.
    Paths are relative to the data folder."""
    images: tuple[str, ...] | None = None
    """COCO: folder of the images, or one folder for each annotation file, relative to the data folder. VOC: not
    allowed; the images are in JPEGImages next to ImageSets."""

    @field_validator("images", mode="before")
    @classmethod
    def _folders(cls, images: object) -> object:
        return (images,) if isinstance(images, str) else images


class DatasetConfig(Section):
    """The dataset and the metric."""

    dataset: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Name of the dataset in logs and files."""
    format: Literal["coco", "voc"]
    """Format of the annotations: COCO JSON or Pascal VOC XML."""
    data_dir: str | None = None
    """The data folder. The flag --data_dir overrides it."""
    train: SplitConfig | None = None
    """Files of the training split."""
    val: SplitConfig | None = None
    """Files of the validation split. null: no validation and no `best` checkpoint."""
    test: SplitConfig | None = None
    """Files of the test split."""
    class_names: tuple[str, ...] | None = None
    """Classes in label order; objects of other classes are left out. null: all classes of the files (COCO: by
    category id; VOC: by name)."""
    ignored_boxes: Literal["keep", "drop"] = "drop"
    """Whether to train on crowd (COCO) and difficult (VOC) boxes. The published CenterNet code keeps them."""
    metric: Literal["coco", "voc07", "voc10"] = "coco"
    """AP that selects the best checkpoint. ``coco``: COCO AP; ``voc07``: VOC 2007 mAP (11 recall points);
    ``voc10``: VOC 2010 mAP (area under the curve)."""


class ModelConfig(Section):
    """The backbone and the widths of the heads."""

    arch: Literal["resnet", "resdcn", "dlav0", "dla", "hourglass", "hrnet"] = "resnet"
    """Backbone. resdcn, dla: resnet and dlav0 with deformable convolutions and the same ImageNet weights."""
    num_layers: Positive = 18
    """Depth of the backbone. resnet, resdcn: 18, 34, 50, 101 or 152; dlav0, dla: 34; hourglass: 52 (one
    stack) or 104 (two stacks); hrnet: 18, 32 or 48, the number of channels of its highest-resolution
    branch."""
    official_neck: bool = False
    """dlav0: upsampling as in the official code, with a 3x3 convolution where the NNabla example has 1x1."""
    hourglass_levels: int = Field(default=5, ge=1, le=5)
    """hourglass: how often a stack halves the resolution; fewer than 5 for small images and machines."""
    hrnet_blocks: int = Field(default=4, ge=1, le=4)
    """hrnet: residual units of every branch of a module; fewer than 4 for small machines."""
    width: float = Field(default=1.0, gt=0.0, le=2.0)
    """Channel multiplier of backbone and upsampling. Other than 1, channels are rounded to multiples of 8."""
    head_channels: Channels = 64
    """Channels of the 3x3 convolution at the start of every head branch."""
    feature_channels: Channels | None = None
    """Output channels of an additional 3x3 convolution after the backbone; corner and centre pooling use this
    number too. null: no such convolution, and pooling uses head_channels."""
    pretrained_model_dir: str | None = None
    """Folder of ImageNet weights (such as ``resnet18_nchw_imagenet.h5``). null: random initialisation."""

    @property
    def granularity(self) -> int:
        """Pixels: the sides of the input must be multiples of this."""
        return 4 << self.hourglass_levels if self.arch == "hourglass" else 32

    def check_side(self, name: str, side: int) -> None:
        """Check the side `name` of the input. Errors: ValueError with the nearest valid sides."""
        step = self.granularity
        less = 3 if self.arch == "hourglass" else 0  # its stem rounds up, so 511 pixels are as good as 512
        above = -(-side // step) * step
        if above - side > less:
            rule = f"a multiple of {step}" + (f" or up to {less} less" if less else "")
            nearest = " or ".join(str(valid) for valid in (above - step, above) if valid)
            raise ValueError(f"{name} must be {rule} for {self.arch}, not {side}; set it to {nearest}")


class InputConfig(Section):
    """The input of the network."""

    height: Side = 512
    """Pixels, a multiple of 32. hourglass: a multiple of 4 x 2^hourglass_levels (128), or up to 3 less."""
    width: Side = 512
    """Pixels, as for height."""
    mean: tuple[Colour, Colour, Colour] = (0.40789654, 0.44719302, 0.47026115)
    """Mean of each channel, in the order of colour_order, for pixel values in [0, 1]. Default: COCO, BGR."""
    std: tuple[Colour, Colour, Colour] = (0.28863828, 0.27408164, 0.27809835)
    """Standard deviation of each channel, as for mean."""
    colour_order: Literal["bgr", "rgb"] = "bgr"
    """Channel order of the network's input. The code published with the papers trains on BGR."""

    @model_validator(mode="after")
    def _check(self) -> InputConfig:
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


class AugmentConfig(Section):
    """The augmentation of training images."""

    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    crop: bool = True
    """Random crop: size from crop_scales, centre not near the border. false: random shift and scale."""
    crop_scales: tuple[Scale, ...] = Field(default=(0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3), min_length=1)
    """Sizes of the crop, as factors; each crop uses one of them at random."""
    crop_window: Literal["image", "input"] = "image"
    """What crop_scales multiply. ``image``: the longer side of the image, so a crop shows the same share of
    every image (CenterNet). ``input``: the input size, so a crop shows the same number of pixels of every
    image (CornerNet)."""
    shift: NotNegative = 0.1
    """Without crop: standard deviation of the shift, as a fraction of the longer side of the image. Shifts
    are clipped at two standard deviations."""
    scale: float = Field(default=0.4, ge=0.0, lt=1.0)
    """Without crop: standard deviation of the scale around 1. Scales are clipped at 1 +- this value."""
    colour: Fraction = 0.4
    """Range of brightness, contrast, saturation: 1 +- colour. 0: no colour jitter and no lighting noise."""
    lighting: NotNegative = 0.1
    """Standard deviation of the PCA lighting noise (Krizhevsky et al., 2012)."""


class RuntimeConfig(Section):
    """Settings of the machine. Programs that load a checkpoint use those of --set, not its own."""

    cpu_kernels: Literal["auto", "nnabla", "blas", "onednn"] = "auto"
    """Library that computes float32 layers on the CPU: NNabla, NumPy's BLAS or oneDNN. ``auto``: oneDNN if it
    is installed, or else BLAS."""
    communication_timeout: NotNegative = 600.0
    """Seconds that a rank waits for the others in one exchange before the program ends, with a checkpoint of the last
    whole step. Work of rank 0 for which the others wait, such as computing the AP, does not count. 0: no limit."""


class TestConfig(Section):
    """Inference and evaluation."""

    __test__ = False  # pytest does not collect this class
    batch_size: Positive = 1
    """Maximum number of images of the same input size per forward pass."""
    keep_resolution: bool = False
    """Pad each image to a size that is valid for the backbone, instead of scaling it to the input size."""
    flip: bool = False
    """Also use the mirror image: ctdet averages the maps of both, corner detectors join the boxes."""
    scales: tuple[Scale, ...] = Field(default=(1.0,), min_length=1)
    """Test scales. Detections of several scales are merged by soft-NMS."""
    soft_nms: bool = False
    """ctdet: apply soft-NMS also with a single test scale."""
    max_detections: Objects = 100
    """Maximum number of detections per image; ctdet reads as many peaks per scale."""
    vis_thresh: Fraction = 0.3
    """Minimum score of the detections that are drawn."""


class Config(Section):
    """The whole configuration."""

    dataset: DatasetConfig
    model: ModelConfig = ModelConfig()
    detector: CtDetConfig | CornerNetConfig | TripletConfig = Field(
        default=CtDetConfig(), discriminator="name"
    )
    input: InputConfig = InputConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    mixed_precision: MixedPrecisionConfig = MixedPrecisionConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    test: TestConfig = TestConfig()

    @field_validator("detector", mode="before")
    @classmethod
    def _named(cls, detector: object) -> object:
        return {"name": "ctdet", **detector} if isinstance(detector, dict) else detector

    @model_validator(mode="after")
    def _check(self) -> Config:
        rate = self.train.learning_rate
        if rate.warmup_epochs > self.train.num_epochs:
            raise ValueError(
                f"train.learning_rate.warmup_epochs ({rate.warmup_epochs:g}) exceeds num_epochs "
                f"({self.train.num_epochs}); lower it"
            )
        if (
            isinstance(self.detector, TripletConfig)
            and self.detector.published
            and 1.0 not in self.test.scales
        ):
            raise ValueError("detector.published uses the centres of scale 1 only; add 1 to test.scales")
        self.model.check_side("input.height", self.input.height)
        self.model.check_side("input.width", self.input.width)
        return self
