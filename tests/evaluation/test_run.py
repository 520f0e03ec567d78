# SPDX-License-Identifier: Apache-2.0
"""Evaluation returns the same list for any number of ranks, and skips images that cannot be read."""

import threading

import cv2
import numpy as np
import pytest

from pointdet.config.schema import CtDetConfig, InputConfig, TestConfig
from pointdet.detectors.ctdet.codec import CtDetCodec
from pointdet.evaluation.run import evaluate
from pointdet.inference.predictor import Predictor
from pointdet.structures import Annotation, Dataset, Detections, Record


class ThreadRanks:
    """Ranks that are threads of this process and exchange values at a barrier."""

    def __init__(self, rank, size, shared):
        self.rank, self.size, self._shared = rank, size, shared

    def gather(self, value):
        self._shared["values"][self.rank] = value
        self._shared["barrier"].wait(30)
        values = list(self._shared["values"]) if self.rank == 0 else None
        self._shared["barrier"].wait(30)
        return values

    def broadcast(self, value):
        if self.rank == 0:
            self._shared["value"] = value
        self._shared["barrier"].wait(30)
        return self._shared["value"]


def run_on_ranks(size, work):
    shared = {"values": [None] * size, "barrier": threading.Barrier(size)}
    results = [None] * size

    def run(rank):
        results[rank] = work(ThreadRanks(rank, size, shared))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def network(images):
    """Maps computed from the image: the heatmap is the mean of each 4 x 4 block, one class per channel."""
    count, height, width, _ = images.shape
    blocks = images.reshape(count, height // 4, 4, width // 4, 4, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
    size = np.full((count, 2, height // 4, width // 4), 3, np.float32)
    return {"heatmap": (blocks / 255).astype(np.float32), "size": size, "offset": size / 6}


def make_predictor(**test):
    codec = CtDetCodec.of(CtDetConfig(), 3, 64, 64)
    return Predictor(
        network,
        codec,
        InputConfig(height=64, width=64),
        TestConfig(max_detections=5, **test),
        ["b", "g", "r"],
    )


def make_dataset(folder, count):
    random = np.random.default_rng(count)
    records = []
    for i in range(count):
        height, width = (int(side) for side in random.integers(40, 120, 2))
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), random.integers(0, 256, (height, width, 3), np.uint8))
        records.append(Record(i, str(path), height, width, Annotation.of([], [])))
    return Dataset("made_test", tuple(records), ("b", "g", "r"), (1, 2, 3))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("boxes", "labels", "scores"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).dtype == getattr(other, name).dtype


@pytest.mark.parametrize("test", [{}, {"batch_size": 3}, {"batch_size": 2, "keep_resolution": True}])
@pytest.mark.parametrize("size, images", [(1, 7), (2, 7), (3, 7), (4, 2)])
def test_every_rank_returns_the_detections_of_a_single_process(tmp_path, size, images, test):
    dataset, predictor = make_dataset(tmp_path, images), make_predictor(**test)
    expected = [predictor(cv2.imread(record.image_path)) for record in dataset.records]
    assert all(len(found) == 5 for found in expected)
    assert (
        len({found.boxes.tobytes() for found in expected}) == images
    )  # all differ: a wrong order is detected
    results = run_on_ranks(size, lambda ranks: evaluate(make_predictor(**test), dataset, ranks))
    for result in results:
        assert_same(result, expected)


def test_unreadable_images_have_no_detections_and_one_warning(tmp_path, caplog, capfd):
    dataset = make_dataset(tmp_path, 6)
    (tmp_path / "1.png").unlink()
    (tmp_path / "4.png").write_bytes(b"no image")
    expected = [Detections.join([])] * 6
    for i in (0, 2, 3, 5):
        expected[i] = make_predictor()(cv2.imread(dataset.records[i].image_path))
    for result in run_on_ranks(2, lambda ranks: evaluate(make_predictor(batch_size=2), dataset, ranks)):
        assert_same(result, expected)
    (warning,) = caplog.messages
    assert warning.startswith("2 of 6 images") and "1.png" in warning and "4.png" in warning
    assert capfd.readouterr() == ("", "")  # no progress bar without a terminal


def test_other_errors_while_reading_are_raised(tmp_path):
    dataset, predictor = make_dataset(tmp_path, 30), make_predictor()

    def broken(image):
        raise ZeroDivisionError

    predictor.prepare = broken
    with pytest.raises(ZeroDivisionError):
        single = ThreadRanks(0, 1, {"values": [None], "barrier": threading.Barrier(1)})
        evaluate(predictor, dataset, single)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker")]
