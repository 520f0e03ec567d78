# SPDX-License-Identifier: Apache-2.0
"""The loader: batches do not depend on the number of processes, and errors of workers are reported."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pointdet.arrays import Batch
from pointdet.config import schema
from pointdet.data.augment import Augmenter
from pointdet.data.loader import Loader
from pointdet.data.sampler import sample_rng
from pointdet.data.worker_pool import MultiProcessPool
from pointdet.detectors.ctdet.codec import CtDetCodec
from pointdet.errors import PointDetError
from pointdet.structures import Annotation, Dataset, Record

PLAIN = schema.AugmentConfig(flip=0, crop=False, shift=0, scale=0, colour=0)
INPUT = schema.InputConfig(height=64, width=64)
CODEC = CtDetCodec.of(schema.CtDetConfig(max_objects=4), 3, 64, 64)
AUGMENTER = Augmenter(schema.AugmentConfig(), INPUT)
COUNT = 11
SOURCES = Path(__file__).parents[2] / "src"

Make = Callable[..., Loader]


@pytest.fixture
def dataset(tmp_path: Path, write_image: Callable[..., Path]) -> Dataset:
    records = []
    for index in range(COUNT):
        path = write_image(tmp_path / f"{index:02d}.png", seed=index)
        annotation = Annotation.of([[5, 5, 30, 30], [20, 10, 50, 38]][: index % 3], [0, 2][: index % 3])
        records.append(Record(index, str(path), 40, 60, annotation))
    return Dataset("toy", tuple(records), ("a", "b", "c"), (1, 2, 3))


@pytest.fixture
def make(dataset: Dataset) -> Iterator[Make]:
    loaders = []

    def build(workers: int = 0, batch_size: int = 2, data: Dataset = dataset, **options: object) -> Loader:
        loader = Loader(data, AUGMENTER, CODEC, batch_size, 7, workers, **options)  # type: ignore[arg-type]
        loaders.append(loader)
        return loader

    yield build
    for loader in loaders:
        loader.close()


def digest(batch: Batch, row: int | slice = slice(None)) -> str:
    parts = hashlib.sha256()
    for name in sorted(batch):
        parts.update(np.ascontiguousarray(batch[name][row]).tobytes())
    return parts.hexdigest()


def digests(batches: Iterator[Batch]) -> list[str]:
    return [digest(batch) for batch in batches]


def pids(loader: Loader) -> list[int]:
    assert isinstance(loader._pool, MultiProcessPool)
    return [process.pid or 0 for process in loader._pool._workers.values()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_batch_equals_its_samples_made_one_by_one(make: Make, dataset: Dataset) -> None:
    from pointdet.data.images import read_image
    from pointdet.data.sampler import Sampler

    batches = make().epoch(3)
    batch = next(batches)
    images, _ = Sampler(COUNT, 2, 7).batch(Sampler(COUNT, 2, 7).permutation(3), 0)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        "image": ((2, 64, 64, 3), np.uint8),
        "colour": ((2, 3, 4), np.float32),
        "weight": ((2,), np.float32),
    } | {name: ((2, *shape), np.float32) for name, shape in CODEC.target_shapes().items()}
    for row, index in enumerate(images.tolist()):
        record = dataset.records[index]
        rng = sample_rng(7, 3, index)
        view = AUGMENTER.random_view(record.height, record.width, rng)
        sample = AUGMENTER.sample(read_image(record.image_path), record.annotation, view, rng)
        targets = {name: np.empty(shape, np.float32) for name, shape in CODEC.target_shapes().items()}
        CODEC.encode(sample.annotation, targets)
        np.testing.assert_array_equal(batch["image"][row], sample.image)
        np.testing.assert_array_equal(batch["colour"][row], sample.colour)
        for name, target in targets.items():
            np.testing.assert_array_equal(batch[name][row], target)


def test_a_large_jpeg_is_decoded_at_a_reduced_size(make: Make, tmp_path: Path) -> None:
    y, x = np.mgrid[:512, :768]
    picture = np.stack([x / 4, y / 3, 128 + 60 * np.sin(x / 90)], axis=2).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "large.jpg"), picture)
    record = Record(0, str(tmp_path / "large.jpg"), 512, 768, Annotation.of([[200, 90, 500, 300]], [1]))
    batch = next(make(batch_size=1, data=Dataset("toy", (record,), ("a", "b"), (1, 2))).epoch(0))
    rng = sample_rng(7, 0, 0)
    view = AUGMENTER.random_view(512, 768, rng)
    assert view.reduction(512, 768) in (4, 8)
    whole = AUGMENTER.sample(picture, record.annotation, view, rng)
    assert np.abs(batch["image"][0].astype(int) - whole.image).mean() < 2
    np.testing.assert_allclose(batch["colour"][0], whole.colour, atol=0.02)


def test_workers_do_not_change_the_batches(make: Make) -> None:
    single_process = make(0)
    expected = {epoch: digests(single_process.epoch(epoch)) for epoch in (0, 1)}
    assert len(expected[0]) == single_process.iterations == 6
    assert len(set(expected[0] + expected[1])) == 12
    for workers in (1, 2):
        loader = make(workers)
        assert {epoch: digests(loader.epoch(epoch)) for epoch in (0, 1)} == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_start_at_any_iteration(make: Make, workers: int) -> None:
    loader = make(workers)
    whole = digests(loader.epoch(4))
    assert digests(loader.epoch(4, start=2)) == whole[2:]
    assert digests(loader.epoch(4, start=6)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_left_early(make: Make, workers: int) -> None:
    loader = make(workers)
    whole = digests(loader.epoch(0))
    for batch in loader.epoch(1):
        digest(batch)
        break
    left = loader.epoch(2)
    next(left)
    assert digests(loader.epoch(0)) == whole
    with pytest.raises(RuntimeError, match="another epoch"):
        next(left)


def test_updates_do_not_depend_on_the_number_of_ranks(make: Make) -> None:
    def samples(batch_size: int, accumulate: int, size: int) -> list[list[str]]:
        """Per update: the digests of its samples, over all ranks."""
        updates: list[list[str]] = [[] for _ in range(2)]
        for rank in range(size):
            loader = make(0, batch_size, rank=rank, size=size, accumulate=accumulate)
            for iteration, batch in enumerate(loader.epoch(0)):
                updates[iteration // accumulate] += [
                    digest(batch, slice(row, row + 1)) for row in range(batch_size)
                ]
        return [sorted(update) for update in updates]

    expected = samples(8, 1, 1)
    assert samples(4, 1, 2) == expected
    assert samples(2, 2, 2) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_stay_valid_during_accumulation(make: Make, workers: int) -> None:
    loader = make(workers, batch_size=1, accumulate=3)
    held: list[tuple[Batch, str]] = []
    for batch in loader.epoch(0):
        held = [*held[-2:], (batch, digest(batch))]
        if workers:
            time.sleep(0.01)  # time for workers to overwrite a batch that is in use
        assert all(digest(old) == seen for old, seen in held)


def test_padding_has_weight_0(make: Make) -> None:
    weights = [float(batch["weight"].sum()) for batch in make(0, batch_size=4).epoch(0)]
    assert weights == [4, 4, 3]


def test_ignored_boxes_are_dropped_or_kept(make: Make, dataset: Dataset) -> None:
    crowd = replace(dataset.records[2].annotation, ignore=np.array([True, False]))
    data = replace(dataset, records=(replace(dataset.records[2], annotation=crowd),))
    for ignored_boxes, expected in (("drop", 1), ("keep", 2)):
        loader = Loader(data, Augmenter(PLAIN, INPUT), CODEC, 1, 0, 0, ignored_boxes=ignored_boxes)  # type: ignore[arg-type]
        assert next(loader.epoch(0))["mask"].sum() == expected


def test_more_ranks_than_images_are_an_error(make: Make) -> None:
    with pytest.raises(PointDetError, match="toy has 11 images for 12 ranks"):
        make(0, size=12)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unusable_image_is_replaced_by_the_next(
    make: Make, dataset: Dataset, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    for index in (3, 4, COUNT - 1):
        path = Path(dataset.records[index].image_path)
        path.write_bytes(path.read_bytes()[:-30])
    whole = replace(dataset, records=tuple(dataset.records[i] for i in (0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 0)))
    loader = make(workers)
    for epoch in (0, 1):
        assert digests(loader.epoch(epoch)) == digests(make(0, data=whole).epoch(epoch))
    for index in (3, 4, COUNT - 1):
        assert caplog.text.count(f"{index:02d}.png is truncated") == 1
    assert len(caplog.records) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_unusable_images_are_an_error(make: Make, dataset: Dataset, workers: int) -> None:
    records = tuple(replace(dataset.records[0], height=41 if i % 2 else 40) for i in range(60))
    with pytest.raises(PointDetError, match=r"2\d of 60 images cannot be used"):
        digests(make(workers, data=replace(dataset, records=records)).epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_no_usable_image_is_an_error(make: Make, dataset: Dataset, workers: int) -> None:
    records = tuple(replace(record, height=41) for record in dataset.records)
    with pytest.raises(PointDetError, match=r"none of the 11 images .*annotated size is 41 x 60"):
        digests(make(workers, data=replace(dataset, records=records)).epoch(0))


def test_overflow_is_counted(dataset: Dataset) -> None:
    many = Annotation.of([[20, 10, 40, 30]] * 6, [1] * 6)
    data = replace(dataset, records=(replace(dataset.records[0], annotation=many),))
    loader = Loader(data, Augmenter(PLAIN, INPUT), CODEC, 1, 0, 0)
    digests(loader.epoch(0))
    assert loader.take_overflow() == {data.records[0].image_path: 2}
    assert loader.take_overflow() == {}


def test_a_killed_worker_is_reported(make: Make) -> None:
    loader = make(2)
    batches = loader.epoch(0)
    next(batches)
    os.kill(pids(loader)[1], signal.SIGKILL)
    with pytest.raises(PointDetError, match="the loader process 'pointdet loader 1' was killed by signal 9"):
        digests(batches)


def test_a_worker_that_hangs_is_reported(make: Make) -> None:
    loader = make(2)
    loader._pool._patience = 1.0
    batches = loader.epoch(0)
    next(batches)
    os.kill(pids(loader)[1], signal.SIGSTOP)
    sentence = (
        r"'pointdet loader 1' \(pid \d+\) has not answered for 1 s; check the storage of its images: .*png"
    )
    with pytest.raises(PointDetError, match=sentence):
        digests(batches)
    os.kill(pids(loader)[1], signal.SIGCONT)


def test_an_exception_in_a_worker_is_raised_with_its_traceback(make: Make, dataset: Dataset) -> None:
    unknown_label = Annotation.of([[5, 5, 50, 35]], [99])
    data = replace(dataset, records=(replace(dataset.records[0], annotation=unknown_label),))
    loader = Loader(data, Augmenter(PLAIN, INPUT), CODEC, 1, 0, 1)
    with loader, pytest.raises(RuntimeError, match=r"(?s)in a loader process:.*in encode.*IndexError"):
        digests(loader.epoch(0))


def test_workers_do_not_import_nnabla_and_ignore_signals(make: Make) -> None:
    loader = make(1)
    next(loader.epoch(0))
    (pid,) = pids(loader)
    assert "nnabla" not in Path(f"/proc/{pid}/maps").read_text()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        os.kill(pid, number)
    assert len(digests(loader.epoch(1))) == 6
    loader.close()
    assert not alive(pid)


def test_importing_the_data_package_does_not_import_nnabla() -> None:
    code = "import sys, pointdet.data.loader, pointdet.data.check, pointdet.data.catalogue; print('nnabla' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=os.environ | {"PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False\n", done.stderr


SCRIPT = """
import sys, time
from pointdet.config import schema
from pointdet.data.augment import Augmenter
from pointdet.data.loader import Loader
from pointdet.detectors.ctdet.codec import CtDetCodec
from pointdet.structures import Annotation, Dataset, Record

if __name__ == "__main__":
    record = Record(0, sys.argv[1], 40, 60, Annotation.of([], []))
    codec = CtDetCodec.of(schema.CtDetConfig(), 1, 64, 64)
    loader = Loader(Dataset("toy", (record,) * 50, ("a",), (1,)), Augmenter(schema.AugmentConfig(), schema.InputConfig(height=64, width=64)), codec, 1, 0, 2)
    batches = loader.epoch(0)
    next(batches)
    print(*(process.pid for process in loader._pool._workers.values()), flush=True)
    time.sleep(60)
"""


def test_workers_end_when_the_parent_is_killed(tmp_path: Path, dataset: Dataset) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(SOURCES)}
    shared = set(os.listdir("/dev/shm"))
    command = [sys.executable, str(script), dataset.records[0].image_path]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2 and all(alive(pid) for pid in workers)
        parent.kill()
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(alive(pid) for pid in workers)
    assert {name for name in os.listdir("/dev/shm") if "pointdet" in name} <= shared


def test_arrays_stay_valid_after_close(make: Make) -> None:
    loader = make(1)
    batch = next(loader.epoch(0))
    expected = digest(batch)
    loader.close()
    assert digest(batch) == expected
