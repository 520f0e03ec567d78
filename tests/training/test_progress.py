# SPDX-License-Identifier: Apache-2.0
"""The counters of a training."""

from pointdet.training.progress import Progress


def test_epochs_and_updates():
    progress = Progress(3, "coco")
    steps, ends = [], []
    for _ in range(2):
        for _ in range(3):
            assert not progress.epoch_is_over
            progress.next_update()
            steps.append(progress.step)
        assert progress.epoch_is_over
        progress.next_epoch()
        ends.append((progress.epoch, progress.update, progress.step))
    assert steps == [1, 2, 3, 4, 5, 6]
    assert ends == [(1, 0, 3), (2, 0, 6)]
    assert progress.position == 6


def test_steps_are_counted_on_when_an_epoch_has_another_length():
    """The schedule of the learning rate counts epochs, the journal counts updates."""
    progress = Progress(5, "coco", epoch=2, update=1, step=40)
    progress.next_update()
    assert (progress.step, progress.position) == (41, 2 * 5 + 2)


def test_any_average_precision_is_higher_than_the_initial_best():
    assert Progress(3, "coco").best < 0
