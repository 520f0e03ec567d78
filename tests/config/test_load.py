# SPDX-License-Identifier: Apache-2.0
"""YAML -> overrides -> Config, and the error message for every kind of mistake."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from pointdet.config.load import dump, load
from pointdet.config.schema import CornerNetConfig, CtDetConfig
from pointdet.errors import PointDetError

MINIMAL = """\
dataset:
  dataset: toy
  format: coco
  train: {annotations: [train.json], images: train}
train:
  batch_size: 4
  learning_rate:
    base_lr: 5e-4
"""


@pytest.fixture
def written(tmp_path):
    """written(text): the path of a configuration file with this text."""

    def write(text):
        path = tmp_path / "experiment.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def error_message(path, overrides=()):
    """The message of the error from `load`, which is one line."""
    with pytest.raises(PointDetError) as caught:
        load(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_values_and_defaults(written):
    config = load(written(MINIMAL))
    assert config.dataset.train.annotations == ("train.json",)
    assert config.train.batch_size == 4
    assert config.train.learning_rate.base_lr == 5e-4  # YAML 1.1 reads 5e-4 as text
    assert config.train.num_epochs == 140
    assert config.input.height == 512
    assert config.dataset.val is None


def test_overrides_replace_values_and_keep_their_types(written):
    overrides = [
        "train.batch_size=8",
        "train.learning_rate.lr_steps=[3, 5]",
        "test.flip=true",
        "model.pretrained_model_dir=null",
    ]
    config = load(written(MINIMAL), overrides)
    assert config.train.batch_size == 8
    assert config.train.learning_rate.lr_steps == (3, 5)
    assert config.train.learning_rate.base_lr == 5e-4
    assert config.test.flip is True
    assert config.model.pretrained_model_dir is None


def test_the_last_override_counts(written):
    assert load(written(MINIMAL), ["train.seed=1", "train.seed=2"]).train.seed == 2


def test_dump_and_load_give_the_same_configuration(written):
    config = load(
        written(MINIMAL), ["augment.crop_scales=[0.5, 1]", "test.scales=[0.75, 1.25]", "train.seed=7"]
    )
    assert load(written(dump(config))) == config


def test_config_is_immutable(written):
    config = load(written(MINIMAL))
    with pytest.raises(ValidationError, match="frozen"):
        config.train.batch_size = 8


def test_unknown_key_names_line_and_nearest(written):
    path = written(MINIMAL.replace("batch_size", "batchsize"))
    assert error_message(path) == f"{path}, line 6: unknown key train.batchsize; did you mean batch_size?"


def test_unknown_key_of_an_inner_section(written):
    path = written(MINIMAL.replace("base_lr", "bas_lr"))
    assert (
        error_message(path)
        == f"{path}, line 8: unknown key train.learning_rate.bas_lr; did you mean base_lr?"
    )


def test_the_detector_is_selected_by_its_name(written):
    config = load(written(MINIMAL))
    assert config.detector == CtDetConfig()
    assert load(written(MINIMAL), ["detector.max_objects=5"]).detector == CtDetConfig(max_objects=5)
    path = written(MINIMAL + "detector: {name: cornernet, top_k: 50}\n")
    config = load(path, ["detector.candidates=70"])
    assert config.detector == CornerNetConfig(top_k=50, candidates=70)
    assert load(written(dump(config))) == config


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("{name: cornernet, topk: 5}", "line 9: unknown key detector.topk; did you mean top_k?"),
        (
            "{name: cornernet, size_weight: 1}",
            "line 9: unknown key detector.size_weight; ",
        ),
        ("{top_k: 5}", "line 9: unknown key detector.top_k; known keys here: name, max_objects, nms_kernel"),
        ("{name: cornernet, top_k: 0}", "line 9: detector.top_k: input should be greater than"),
        (
            "{name: cornet}",
            "line 9: detector.name: input should be one of 'ctdet', 'cornernet', 'triplet' (given: 'cornet')",
        ),
        ("5", "line 9: detector: input should be a valid dict"),
    ],
)
def test_wrong_settings_of_a_detector(written, settings, expected):
    assert expected in error_message(written(f"{MINIMAL}detector: {settings}\n"))


def test_unknown_section_without_a_similar_name_lists_all_sections(written):
    path = written(MINIMAL + "qqqq: {}\n")
    assert error_message(path).startswith(
        f"{path}, line 9: unknown key qqqq; known keys here: dataset, model, "
    )


def test_wrong_type_names_line_and_value(written):
    path = written(MINIMAL.replace("batch_size: 4", "batch_size: many"))
    message = error_message(path)
    assert message.startswith(f"{path}, line 6: train.batch_size: ")
    assert "integer" in message and message.endswith("(given: 'many')")


def test_out_of_bounds(written):
    message = error_message(written(MINIMAL.replace("batch_size: 4", "batch_size: 0")))
    assert "line 6: train.batch_size: " in message and "greater than or equal to 1" in message


def test_duplicate_key(written):
    message = error_message(written(MINIMAL + "train: {seed: 1}\n"))
    assert message == "experiment.yaml, line 9: the key train occurs twice; remove one"


def test_missing_section(written):
    path = written("train: {batch_size: 4}\n")
    assert error_message(path) == f"{path}: the key dataset is missing; add it"


def test_missing_key_names_the_line_of_its_section(written):
    path = written("dataset:\n  dataset: toy\n")
    assert error_message(path) == f"{path}, line 1: the key dataset.format is missing; add it"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "train.batchsize=8",
            "--set train.batchsize=8: unknown key train.batchsize; did you mean batch_size?",
        ),
        ("train.batch_size=many", "--set train.batch_size=many: train.batch_size: "),
        ("train.batch_size", "--set 'train.batch_size' is not of the form section.key=value"),
        ("=8", "--set '=8' is not of the form section.key=value"),
        ("train.batch_size.more=8", "batch_size is a value, not a section"),
        ("train.learning_rate.lr_steps=[3", "the value is not valid YAML"),
    ],
)
def test_wrong_override(written, override, expected):
    assert expected in error_message(written(MINIMAL), [override])


def test_missing_file(tmp_path):
    path = tmp_path / "none.yaml"
    assert (
        error_message(path)
        == f"cannot read the config {path}: No such file or directory; give an existing YAML file"
    )


def test_folder_instead_of_a_file(tmp_path):
    assert "Is a directory" in error_message(tmp_path)


def test_invalid_yaml(written):
    path = written("dataset: {format: coco\n")
    message = error_message(path)
    assert message.startswith(f"{path} is not valid YAML: ") and "line 2" in message


@pytest.mark.parametrize("text", ["", "# only a comment\n", "just words\n", "- a\n- b\n"])
def test_file_without_settings(written, text):
    path = written(text)
    assert (
        error_message(path)
        == f"{path} contains no settings; it must be a mapping of sections such as `dataset:`"
    )


def test_not_utf8(tmp_path):
    path = Path(tmp_path / "latin.yaml")
    path.write_bytes("dataset: {dataset: Gelände}\n".encode("latin-1"))
    assert "UTF-8" in error_message(path)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("input.height", "500", "must be a multiple of 32 for resnet, not 500; set it to 480 or 512"),
        ("input.std", "[1, 0, 1]", "std must be positive"),
        ("train.learning_rate.lr_steps", "[5, 3]", "lr_steps must be strictly increasing"),
        ("train.num_epochs", "3", "warmup_epochs (5) exceeds num_epochs (3); lower it"),
        ("train.learning_rate.base_lr", ".nan", "finite"),
        ("dataset.format", "yolo", "'coco' or 'voc'"),
        ("dataset.train.annotations", "[]", "at least 1 item"),
    ],
)
def test_invalid_values(written, key, value, expected):
    assert expected in error_message(written(MINIMAL), [f"{key}={value}"])


def test_published_triplets_need_scale_1(written):
    settings = ["detector.name=triplet", "test.scales=[0.5, 2]"]
    load(written(MINIMAL), settings)
    settings.append("detector.published=true")
    assert "uses the centres of scale 1 only; add 1 to test.scales" in error_message(
        written(MINIMAL), settings
    )


HOURGLASS = ["model.arch=hourglass", "model.num_layers=104"]


@pytest.mark.parametrize(
    ("settings", "sides"),
    [
        (["model.arch=dlav0", "model.num_layers=34"], (32, 416)),
        (HOURGLASS, (128, 512, 511, 509)),
        ([*HOURGLASS, "model.hourglass_levels=3"], (32, 96, 95)),
    ],
)
def test_valid_input_sizes(written, settings, sides):
    for side in sides:
        load(written(MINIMAL), [*settings, f"input.height={side}", f"input.width={sides[0]}"])


@pytest.mark.parametrize(
    ("settings", "key", "side", "expected"),
    [
        (
            [],
            "input.height",
            511,
            "input.height must be a multiple of 32 for resnet, not 511; set it to 480 or 512",
        ),
        ([], "input.width", 20, "input.width must be a multiple of 32 for resnet, not 20; set it to 32"),
        (
            HOURGLASS,
            "input.width",
            508,
            "input.width must be a multiple of 128 or up to 3 less for hourglass, not 508; set it to 384 or 512",
        ),
        (
            [*HOURGLASS, "model.hourglass_levels=2"],
            "input.height",
            56,
            "input.height must be a multiple of 16 or up to 3 less for hourglass, not 56; set it to 48 or 64",
        ),
    ],
)
def test_invalid_input_sizes(written, settings, key, side, expected):
    assert error_message(written(MINIMAL), [*settings, f"{key}={side}"]).endswith(
        f"--set {key}={side}: {expected}"
    )


@pytest.mark.parametrize(
    ("override", "limit"),
    [
        ("model.head_channels=1000000000", "4096"),
        ("model.feature_channels=5000", "4096"),
        ("model.num_layers=1000000000000000000000000000000", "1000000000"),
        ("detector.max_objects=1000000000000", "100000"),
        ("detector={name: cornernet, top_k: 100000}", "2000"),
        ("input.height=1000000000000", "32766"),
        ("input.mean=[1.0e+30, 0, 0]", "1000000"),
        ("test.scales=[1.0e+30]", "100"),
        ("test.max_detections=1000000000000", "100000"),
        ("augment.crop_scales=[1.0e+30]", "100"),
        ("augment.shift=1.0e+30", "1000000000"),
        ("train.batch_size=1000000000000000000000000000000", "1000000000"),
        ("train.workers=1000000", "1024"),
        ("train.learning_rate.lr_steps=[1000000000000]", "1000000000"),
        ("mixed_precision.loss_scaling=1.0e+30", "16777216"),
    ],
)
def test_numbers_far_too_large_are_refused(written, override, limit):
    message = error_message(written(MINIMAL), [override])
    assert f"less than or equal to {limit}" in message and override.split("=")[0].split(".")[-1] in message
