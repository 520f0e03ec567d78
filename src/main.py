# SPDX-License-Identifier: Apache-2.0
"""Train a detector: python src/main.py ctdet --data_dir D --train-config cfg/resnet_18_pascal_fp.yaml -o OUT.

Imports that reach NNabla stand inside the functions: the loader's worker processes import this file again.
"""

from __future__ import annotations

import argparse
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from pointdet.config import flags, load
from pointdet.config.schema import Config
from pointdet.data.catalogue import read_dataset
from pointdet.errors import PointDetError
from pointdet.structures import Dataset

if TYPE_CHECKING:
    from pointdet.data.loader import Loader
    from pointdet.inference.restore import Model

logger = logging.getLogger("pointdet")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a detector, alone or on many devices: mpirun -n 4 python src/main.py ..."
    )
    parser.add_argument("detector", choices=flags.DETECTORS)
    parser.add_argument("--train-config", type=Path, required=True, metavar="FILE", help="YAML, see cfg/")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="run folder [runs/CONFIG]")
    flags.add_run_flags(parser)
    parser.add_argument("--resume", action="store_true", help="continue the run in the run folder")
    parser.add_argument(
        "--iter",
        type=int,
        default=0,
        metavar="N",
        help="continue it from its checkpoint after N steps; newer ones are set aside",
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="start from these parameters (fine-tuning)"
    )
    parser.add_argument(
        "--show-config", action="store_true", help="print the resolved configuration and stop"
    )
    parser.add_argument(
        "--check-data", action="store_true", help="look at every image and box, report and stop"
    )
    parser.add_argument(
        "--preview",
        type=int,
        default=0,
        metavar="N",
        help="draw N augmented images with their targets and stop",
    )
    return parser.parse_args()


def main() -> int:
    args = parse()
    config = load.load(args.train_config, flags.overrides(args))
    if config.detector.name != args.detector:
        raise PointDetError(f"{args.train_config} configures {config.detector.name}, not {args.detector}")
    folder = args.output or Path("runs") / args.train_config.stem
    if args.show_config:
        print(load.dump(config), end="")
    elif args.check_data:
        check_data(config)
    elif args.preview:
        preview(config, folder, args.preview)
    else:
        return train(args, config, folder)
    return 0


def train(args: argparse.Namespace, config: Config, folder: Path) -> int:
    """The exit status: 0 after the last epoch, that of a terminated job when a signal came before."""
    from pointdet import runtime as runtimes
    from pointdet.training import start
    from pointdet.training.trainer import Trainer

    runtime = runtimes.start(*flags.device(args), config.runtime.cpu_kernels)
    last = start.begin(folder, args.resume, runtime, args.iter)
    train_set, val_set = splits(config)
    model = start.fresh(config, train_set.class_names, runtime)
    if last is None and args.checkpoint is not None:
        start.take_parameters(args.checkpoint, model)
    elif last is None and config.model.pretrained_model_dir is not None:
        start.take_imagenet(model)
    with loader(model, train_set) as batches:
        trainer = Trainer(model, batches, val_set, folder)
        if last is not None:
            trainer.resume(last)
        start.open_folder(folder, config, runtime)
        if args.iter:
            start.go_back(folder, args.iter, runtime)
        finished = trainer.run()
    logger.info("the run is in %s", folder)
    return 0 if finished else 128 + signal.SIGTERM


def splits(config: Config) -> tuple[Dataset, Dataset | None]:
    """The training images and, where the configuration names them, the validation images."""
    train_set = read_dataset(config.dataset, "train")
    logger.info("%d training images, classes: %s", len(train_set), ", ".join(train_set.class_names))
    if config.dataset.val is None:
        return train_set, None
    return train_set, read_dataset(config.dataset, "val", train_set.class_names)


def loader(model: Model, train_set: Dataset) -> Loader:
    """This rank's part of the training images, augmented, with the detector's targets."""
    from pointdet.data.augment import Augmenter
    from pointdet.data.loader import Loader

    config, ranks = model.config, model.runtime.ranks
    return Loader(
        train_set,
        Augmenter(config.augment, config.input, model.detector.image_channels),
        model.detector.codec,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        workers=config.train.workers,
        rank=ranks.rank,
        size=ranks.size,
        accumulate=config.train.accumulate,
        ignored_boxes=config.dataset.ignored_boxes,
    )


def check_data(config: Config) -> None:
    from pointdet.data.check import check_dataset

    for dataset in splits(config):
        if dataset is not None:
            print(check_dataset(dataset), end="\n\n")


def preview(config: Config, folder: Path, count: int) -> None:
    from pointdet.data.preview import write_previews
    from pointdet.runtime import start
    from pointdet.training.start import fresh

    train_set, _ = splits(config)
    few = load.override(config, ["train.workers=0", f"train.batch_size={min(count, len(train_set))}"])
    model = fresh(few, train_set.class_names, start())
    with loader(model, train_set) as batches:
        for path in write_previews(
            batches, model.detector.codec, config.input, train_set.class_names, folder / "preview", count
        ):
            print(path)


if __name__ == "__main__":
    from pointdet.runtime import door

    door(main)
