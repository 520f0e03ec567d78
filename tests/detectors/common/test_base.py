# SPDX-License-Identifier: Apache-2.0
"""A detector with several stacks: in training every stack has a head, in inference only the last one."""

import nnabla as nn
import numpy as np
import tiny

from pointdet.detectors import catalogue
from pointdet.model.network import build_graph
from pointdet.ops.mode import Mode
from pointdet.runtime import start

STACKS = (
    *("model.arch=hourglass", "model.num_layers=104", "model.hourglass_levels=2"),
    *("model.width=0.0625", "model.head_channels=8"),
)


def heads(detector):
    """The scopes of the heads."""
    return {name.partition("hm_")[0] for name in detector.parameters() if "hm_" in name}


def outputs(detector, images, every_stack):
    """The output arrays of each stack."""
    pixels, colour = nn.Variable(images.shape), nn.Variable((len(images), 3, 4))
    pixels.data.cast(np.uint8)[...] = images
    colour.d = np.eye(3, 4) / 255
    stacks = detector.outputs(pixels, colour, Mode(training=False), nn.get_current_context(), every_stack)
    nn.forward_all([v for stack in stacks for v in stack.values()])
    return [{name: v.d.copy() for name, v in stack.items()} for stack in stacks]


def test_inference_returns_the_last_stack(tmp_path):
    detector = tiny.model(tiny.config(tmp_path, *STACKS)).detector
    assert heads(detector) == {"stack1/", "stack2/"}
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
    first, second = outputs(detector, images, every_stack=True)
    (last,) = outputs(detector, images, every_stack=False)
    for name, array in last.items():
        np.testing.assert_array_equal(array, second[name])
        assert not np.allclose(array, first[name])


def test_inference_creates_no_other_heads(tmp_path):
    detector = catalogue.build(tiny.config(tmp_path, *STACKS), 3)
    build_graph(detector, start(), half=False, shape=(1, 48, 64))
    assert heads(detector) == {"stack2/"}
    assert detector.class_bias == "stack2/hm_final/conv/b"


def test_head_of_one_stack_has_no_scope(tmp_path):
    for settings in ((), (*STACKS, "model.num_layers=52")):
        detector = tiny.model(tiny.config(tmp_path, *settings)).detector
        assert heads(detector) == {""}
        assert detector.class_bias == "hm_final/conv/b"
