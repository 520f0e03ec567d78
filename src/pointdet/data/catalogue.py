# SPDX-License-Identifier: Apache-2.0
"""The dataset section of the configuration -> Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pointdet.config import schema
from pointdet.data.coco import read_coco
from pointdet.data.host_dataset import read_once_per_host
from pointdet.data.voc import read_voc
from pointdet.errors import PointDetError
from pointdet.structures import Dataset

if TYPE_CHECKING:
    from pointdet.ranks.base import Ranks

SplitName = Literal["train", "val", "test"]


def read_dataset(
    config: schema.DatasetConfig,
    split_name: SplitName,
    class_names: Sequence[str] | None = None,
    ranks: Ranks | None = None,
) -> Dataset:
    """Read one split.

    `class_names`: classes of the train split or of the checkpoint, in label order. Val and test splits of a
    VOC dataset need them, because VOC files do not list the classes. `ranks`: those that all make this call; only one
    process of each host reads, and the others map its memory. None: this process reads by itself.

    Errors: PointDetError for mistakes in the dataset section, in the annotation files, or for missing images; on all
    ranks.
    """
    if ranks is not None:
        return read_once_per_host(lambda: read_dataset(config, split_name, class_names), ranks)
    if config.data_dir is None:
        raise PointDetError("the data folder is not given; add --data_dir or dataset.data_dir")
    data_dir = Path(config.data_dir)
    if not data_dir.is_dir():
        raise PointDetError(
            f"the data folder {data_dir} does not exist; correct --data_dir or dataset.data_dir"
        )
    split: schema.SplitConfig | None = getattr(config, split_name)
    if split is None:
        raise PointDetError(f"the configuration has no dataset.{split_name}; add it with its `annotations`")
    names = class_names if class_names is not None else config.class_names
    name = f"{config.dataset}_{split_name}"
    if config.format == "coco":
        dataset = read_coco(name, data_dir, split, names)
    else:
        if names is None and split_name != "train":
            raise PointDetError(
                f"dataset.{split_name} needs the classes of the train split; list them in dataset.class_names"
            )
        dataset = read_voc(name, data_dir, split, names, selection=config.class_names is not None)
    if not any(len(record.annotation) for record in dataset.records):
        raise PointDetError(
            f"dataset.{split_name} ({', '.join(split.annotations)}) has no objects; give other files"
        )
    return dataset
