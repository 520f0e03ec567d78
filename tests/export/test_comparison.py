# SPDX-License-Identifier: Apache-2.0
"""The comparison of an exported network with its checkpoint: bounds, values that are not finite, peaks."""

from types import SimpleNamespace

import numpy as np
import pytest

from pointdet.export.comparison import BOUNDS, compare

IMAGES = [np.zeros((1, 4, 4, 3), np.uint8)]


def network(contents="maps", **maps):
    """A network with constant maps."""

    class Constant:
        metadata = SimpleNamespace(contents=contents, heatmaps=("heatmap",))

        def __call__(self, images):
            return {name: np.asarray(values, np.float32) for name, values in maps.items()}

    return Constant()


def compared(precision, found, expected, **settings):
    return compare(network(size=found, **settings), network(size=expected), IMAGES, precision)


@pytest.mark.parametrize("precision", BOUNDS)
def test_the_bound_is_relative_to_the_largest_value_or_one(precision):
    bound = BOUNDS[precision]
    assert compared(precision, [0.2 + 0.9 * bound, 0], [0.2, 0]).fault is None
    assert "size differs by" in compared(precision, [0.2 + 1.1 * bound, 0], [0.2, 0]).fault
    assert compared(precision, [20, 18 * bound], [20, 0]).fault is None
    assert "size differs by" in compared(precision, [20, 22 * bound], [20, 0]).fault


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value):
    for found, expected in (([value, 0], [1, 0]), ([1, 0], [value, 0]), ([value, 0], [value, 0])):
        assert "size has values that are NaN or infinite" in compared("half", found, expected).fault


def test_nan_is_not_shown_as_no_difference():
    found, good = network(size=[np.nan], offset=[0]), network(size=[1], offset=[0])
    assert compare(found, good, IMAGES * 2, "half").table().splitlines()[0].endswith(": nan")


def test_every_image_counts():
    batches = [np.full((1, 4, 4, 3), number, np.uint8) for number in range(3)]

    class Differs:
        metadata = SimpleNamespace(contents="maps", heatmaps=())

        def __call__(self, images):
            return {"size": np.float32([1.0 if images[0, 0, 0, 0] == 1 else 0.0])}

    comparison = compare(Differs(), network(size=[0]), batches, "half")
    assert comparison.outputs["size"].difference == 1 and comparison.fault is not None


def test_heatmaps_of_a_pipeline_are_compared_at_their_peaks():
    found = network("pipeline", heatmap=[0, 0.5], size=[1, 2])
    assert compare(found, network(heatmap=[0.4, 0.5], size=[1, 2]), IMAGES, "float").fault is None
    assert compare(found, network(heatmap=[0.4, 0.6], size=[1, 2]), IMAGES, "float").fault is not None
    found.metadata.contents = "maps"
    assert compare(found, network(heatmap=[0.4, 0.5], size=[1, 2]), IMAGES, "float").fault is not None


def test_the_table_names_every_output_and_its_bound():
    found = network(heatmap=[0.25], size=[30.5])
    lines = compare(found, network(heatmap=[0.25], size=[30]), IMAGES, "half").table().splitlines()
    assert lines[0] == "largest difference after loading it again: 5.0e-01"
    assert [line.split() for line in lines[1:]] == [
        ["heatmap", "0.0e+00", "of", "2.5e-01,", "bound", "2.0e-02"], ["size", "5.0e-01", "of", "3.0e+01,", "bound", "6.0e-01"]
    ]  # fmt: skip
