# SPDX-License-Identifier: Apache-2.0
"""Every YAML key: its type, bounds, default and meaning. A key that is not here is an error."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A frozen part of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Split(Section):
    annotations: tuple[str, ...] = Field(min_length=1)
    """COCO: one JSON file. VOC: one or more image-set lists (``.../ImageSets/Main/trainval.txt``), merged in this
    order. Relative to the data folder."""
    images: str | None = None
    """COCO: the folder of the images. VOC: found beside ImageSets (JPEGImages), no key needed."""


class Dataset(Section):
    dataset: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Name shown in logs and files."""
    format: Literal["coco", "voc"]
    """Layout on disk."""
    data_dir: str | None = None
    """The data folder; the command line's --data_dir overrides it."""
    train: Split | None = None
    val: Split | None = None
    test: Split | None = None
    class_names: tuple[str, ...] | None = None
    """Classes in label order. None: taken from the files (COCO: by category id; VOC: sorted names)."""
    ignored_boxes: Literal["keep", "drop"] = "drop"
    """Crowd (COCO) and difficult (VOC) boxes as training objects. The published runs keep them."""
    metric: Literal["coco", "voc07", "voc10"] = "coco"
    """Which AP decides about the best checkpoint: COCO's AP, VOC's mAP of 2007 (11 points) or of 2010 (area)."""


class Model(Section):
    arch: Literal["resnet", "resdcn", "dlav0", "dla", "hourglass", "hrnet"] = "resnet"
    """resdcn and dla: with deformable convolutions; of the same ImageNet parameters as resnet and dlav0."""
    num_layers: int = 18
    """resnet, resdcn: 18, 34, 50, 101 or 152; dlav0, dla: 34; hourglass: 52 (one stack) or 104 (two); hrnet: 18, 32 or
    48, the channels of its finest branch."""
    official_neck: bool = False
    """dlav0: the upsampling of the official code, which has one kernel of 3x3 where the NNabla example has 1x1."""
    hourglass_levels: int = Field(default=5, ge=1, le=5)
    """hourglass: how many times a stack halves its map; fewer than 5 for small images and machines."""
    hrnet_blocks: int = Field(default=4, ge=1, le=4)
    """hrnet: residual units on every branch of a module; fewer than 4 for small machines."""
    width: float = Field(default=1.0, gt=0.0, le=2.0)
    """Channel factor of backbone and upsampling, for small machines; other than 1 it gives multiples of 8."""
    head_channels: Positive = 64
    """Channels of the 3x3 convolution that opens every head."""
    feature_channels: Positive | None = None
    """A 3x3 convolution behind the backbone to this many channels, which are those of corner and centre pooling too.
    null: no convolution; corners and centres are pooled with head_channels."""
    pretrained_model_dir: str | None = None
    """Folder of ImageNet backbones (``resnet18_nchw_imagenet.h5``). None: random initialisation."""

    @property
    def granularity(self) -> int:
        """The backbone takes inputs whose sides are multiples of this many pixels."""
        return 4 << self.hourglass_levels if self.arch == "hourglass" else 32

    def check_side(self, name: str, side: int) -> None:
        """ValueError, which names the nearest sides that fit, where the backbone cannot take this one."""
        step = self.granularity
        less = 3 if self.arch == "hourglass" else 0  # its stem rounds up, so that 511 pixels do for 512
        above = -(-side // step) * step
        if above - side > less:
            rule = f"a multiple of {step}" + (f" or up to {less} less" if less else "")
            nearest = " or ".join(str(fit) for fit in (above - step, above) if fit)
            raise ValueError(f"{name} must be {rule} for {self.arch}, not {side}; set it to {nearest}")


class Input(Section):
    """Which sides fit is a matter of the backbone, see Model.granularity."""

    height: Positive = 512
    width: Positive = 512
    mean: tuple[float, float, float] = (0.40789654, 0.44719302, 0.47026115)
    """Per channel in the order fed, of values in [0, 1]. The default is COCO's, for BGR."""
    std: tuple[float, float, float] = (0.28863828, 0.27408164, 0.27809835)
    colour_order: Literal["bgr", "rgb"] = "bgr"
    """Order fed to the network. All published detectors were trained on BGR."""

    @model_validator(mode="after")
    def _check(self) -> Input:
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


class Augment(Section):
    flip: Fraction = 0.5
    """Probability of a horizontal mirror image."""
    crop: bool = True
    """Random crop: scale from crop_scales, centre anywhere but near the border. False: shift and scale instead."""
    crop_scales: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        default=(0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3), min_length=1
    )
    crop_window: Literal["image", "input"] = "image"
    """What crop_scales multiply: the longer side of the image, so that the window shows the same share of any image
    (CenterNet), or the sides of the input, so that it shows as many pixels (CornerNet)."""
    shift: NotNegative = 0.1
    scale: float = Field(default=0.4, ge=0.0, lt=1.0)
    colour: Fraction = 0.4
    """Range of the brightness, contrast and saturation factors, 1 +- colour; 0 switches jitter and lighting off."""
    lighting: NotNegative = 0.1
    """Standard deviation of the PCA lighting noise."""


class CtDet(Section):
    name: Literal["ctdet"] = "ctdet"
    max_objects: Positive = 128
    """Objects trained per image; further ones are left out (and counted)."""
    radius: Literal["published", "iou"] = "published"
    """Gaussian radius: the published formula (about 3.3 x larger), or the one that keeps an IoU of min_overlap."""
    min_overlap: float = Field(default=0.7, gt=0.0, lt=1.0)
    heatmap_weight: NotNegative = 1.0
    size_weight: NotNegative = 0.1
    offset_weight: NotNegative = 1.0
    legacy_heatmap_bias: bool = False
    """Start the heatmap head's first bias at -2.19 too, as the NNabla example did (its units are dead at first)."""


class CornerDetector(Section):
    """What CornerNet and triplets have in common."""

    max_objects: Positive = 128
    """Objects trained per image; further ones are left out (and counted)."""
    radius: Literal["published", "iou"] = "iou"
    """Gaussian radius: the one that keeps an IoU of min_overlap, or CenterNet's published formula."""
    min_overlap: float = Field(default=0.3, gt=0.0, lt=1.0)
    """IoU that a box keeps when its corners are off by the radius of their Gaussians."""
    pull_weight: NotNegative = 0.5
    push_weight: NotNegative = 0.5
    offset_weight: NotNegative = 1.0
    embedding_loss: Literal["mean", "published"] = "mean"
    """Pull and push: the mean over images, whatever the batch and the ranks, or their sum over the images of each
    forward pass, for which the published weights are 0.1 (at 5 images)."""
    top_k: Positive = 100
    """Corners of each kind that are paired, over all classes together."""
    candidates: Positive = 1000
    """Pairs that reach the suppression, for each scale and each mirror image; never fewer than test.max_detections."""
    tag_distance: NotNegative = 0.5
    """Corners whose tags are farther apart than this are of two objects. Less helps where boxes span two objects."""
    suppression: Literal["gaussian", "linear", "hard"] = "gaussian"
    """Soft-NMS, which this detector always has: sigma 0.5 (gaussian), IoU 0.5 (linear, hard)."""
    merge_exponent: NotNegative = 0.0
    """Above 0, boxes that suppress others move to a mean with them; published: 10, with several scales. 0 is off."""
    published: bool = False
    """Detections as in the published numbers: mirrored boxes a pixel aside, and soft-NMS with its two faults."""


class CornerNet(CornerDetector):
    name: Literal["cornernet"] = "cornernet"


class Triplet(CornerDetector):
    name: Literal["triplet"] = "triplet"
    radius: Literal["published", "iou"] = "published"
    min_overlap: float = Field(default=0.7, gt=0.0, lt=1.0)
    pull_weight: NotNegative = 0.6
    push_weight: NotNegative = 0.6
    top_k: Positive = 70
    """Keypoints of each kind, over all classes together."""
    published: bool = False
    """Detections as in the published numbers: as for CornerNet, and a box takes the first centre that confirms it, of
    scale 1 alone, instead of the best one of all scales."""


class LearningRate(Section):
    base_lr: float = Field(default=5e-4, gt=0.0)
    """For the whole batch of all ranks, reached after the warm-up."""
    scheduler_type: Literal["cosine", "step"] = "cosine"
    warmup_epochs: NotNegative = 5.0
    """Linear, per iteration, from base_lr / iterations."""
    lr_steps: tuple[Positive, ...] = (90, 120)
    """step: epochs after which the rate is multiplied by decay_rate."""
    decay_rate: float = Field(default=0.1, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _check(self) -> LearningRate:
        if list(self.lr_steps) != sorted(set(self.lr_steps)):
            raise ValueError("lr_steps must rise")
        return self


class Train(Section):
    num_epochs: Positive = 140
    batch_size: Positive = 32
    """Images per rank and forward pass."""
    accumulate: Positive = 1
    """Forward passes per update; the update is that of the joined batch."""
    recompute: bool = False
    """Keep of every residual unit only what comes out and compute the rest again in the backward pass: less memory, more
    time, the same numbers."""
    learning_rate: LearningRate = LearningRate()
    weight_decay: NotNegative = 0.0
    clip_grad_norm: NotNegative = 0.0
    """Bound of the norm of all gradients together; 0 is off."""
    ema_decay: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Exponential moving average of the weights, used for evaluation and export; 0 is off. It has forgotten the
    random start after about 5 / (1 - ema_decay) updates."""
    seed: int = Field(default=317, ge=0, lt=2**31)
    workers: int = Field(default=2, ge=0)
    """Loader processes per rank; 0 loads in the training process."""
    val_intervals: Positive = 5
    """Epochs between validations; the last epoch is always validated."""
    save_intervals: int = Field(default=0, ge=0)
    """Epochs between checkpoints that are kept for good, beside last and best; 0: none."""
    save_minutes: NotNegative = 30.0
    """Also write `last` within an epoch when the newest one is older than this; 0: only at the end of an epoch."""
    log_intervals: Positive = 20
    """Iterations between lines of the log."""


class MixedPrecision(Section):
    mixed_precision: bool = False
    """Half activations, float32 parameters, solver and losses."""
    channel_last: bool = False
    """NHWC."""
    loss_scaling: float = Field(default=65536.0, ge=1.0)
    """First (dynamic) or only loss scale; used with mixed_precision."""
    use_dynamic_loss_scaling: bool = True
    """Halve the scale and skip the step on overflow; double it after loss_scaling_interval good steps."""
    loss_scaling_interval: Positive = 2000


class Runtime(Section):
    """The machine, not the model: testing programs take it from --set alone, not from a checkpoint."""

    cpu_kernels: Literal["auto", "nnabla", "blas", "onednn"] = "auto"
    """Who computes float32 on the CPU: NNabla, NumPy's BLAS, or oneDNN. auto: oneDNN where installed, else BLAS."""


class Test(Section):
    __test__ = False
    batch_size: Positive = 1
    keep_resolution: bool = False
    """Pad each image to sides that the backbone takes instead of scaling it to the input size."""
    flip: bool = False
    """Average with the mirror image."""
    scales: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(default=(1.0,), min_length=1)
    """Several scales are merged by soft-NMS."""
    soft_nms: bool = False
    """Soft-NMS also at a single scale."""
    max_detections: Positive = 100
    """Peaks read per scale, and detections kept per image."""
    vis_thresh: Fraction = 0.3
    """Lowest score that is drawn."""


class Config(Section):
    dataset: Dataset
    model: Model = Model()
    detector: CtDet | CornerNet | Triplet = Field(default=CtDet(), discriminator="name")
    input: Input = Input()
    augment: Augment = Augment()
    train: Train = Train()
    mixed_precision: MixedPrecision = MixedPrecision()
    runtime: Runtime = Runtime()
    test: Test = Test()

    @field_validator("detector", mode="before")
    @classmethod
    def _named(cls, detector: object) -> object:
        return {"name": "ctdet", **detector} if isinstance(detector, dict) else detector

    @model_validator(mode="after")
    def _check(self) -> Config:
        rate = self.train.learning_rate
        if rate.warmup_epochs > self.train.num_epochs:
            raise ValueError(
                f"train.learning_rate.warmup_epochs ({rate.warmup_epochs:g}) exceeds num_epochs ({self.train.num_epochs})"
            )
        if isinstance(self.detector, Triplet) and self.detector.published and 1.0 not in self.test.scales:
            raise ValueError("detector.published takes centres from scale 1 alone; add 1 to test.scales")
        self.model.check_side("input.height", self.input.height)
        self.model.check_side("input.width", self.input.width)
        return self
