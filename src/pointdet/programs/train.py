# SPDX-License-Identifier: Apache-2.0
"""Train a detector: pointdet train --train-config resnet_18_pascal_fp --data_dir DATA -o FOLDER.

The loader's worker processes import this module too, and must not import NNabla. So modules that need NNabla
are imported inside functions.
"""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pointdet.config import load, shipped
from pointdet.config.schema import Config
from pointdet.data.catalogue import read_dataset
from pointdet.errors import PointDetError, visible_lines
from pointdet.programs import flags
from pointdet.programs.parser import Parser
from pointdet.structures import Dataset

if TYPE_CHECKING:
    from pointdet.data.loader import Loader
    from pointdet.model.restore import Model
    from pointdet.ranks.base import Ranks

logger = logging.getLogger("pointdet")


def parse(arguments: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = Parser(
        prog=prog, description="Train a detector. On several devices: mpirun -n 4 pointdet train ..."
    )
    flags.add_detector_flag(parser)
    parser.add_argument(
        "--train-config",
        type=Path,
        required=True,
        metavar="FILE",
        help="YAML file, or name of a shipped configuration, such as resnet_18_pascal_fp",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="run folder (default: runs/ and the name of the configuration)",
    )
    flags.add_run_flags(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="always",
        default="never",
        choices=("always", "auto"),
        metavar="auto",
        help="continue the run in the run folder from its last checkpoint; `--resume auto` starts a new run if there "
        "is none, for jobs that a scheduler starts again",
    )
    parser.add_argument(
        "--iter",
        type=int,
        default=0,
        metavar="N",
        help="continue the run from its checkpoint after N steps; later ones are moved to set_aside_1, 2, ...",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="PATH",
        help="fine-tune: initial parameters from a checkpoint folder or .h5 file",
    )
    parser.add_argument(
        "--show-config",
        action="store_true",
        help="print all keys of the configuration with their values, and exit",
    )
    parser.add_argument(
        "--check-data", action="store_true", help="read all images and boxes, print a report, and exit"
    )
    parser.add_argument(
        "--preview",
        type=int,
        default=0,
        metavar="N",
        help="write N augmented images with their boxes to preview/ in the run folder, and exit",
    )
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return the exit status. `prog`: name of the command in its help text."""
    args = parse(arguments, prog)
    path = shipped.find(args.train_config)
    config = load.load(path, flags.overrides(args))
    if args.detector not in (None, config.detector.name):
        raise PointDetError(
            f"{path} is a configuration of {config.detector.name}, not of {args.detector}; "
            f"leave out {args.detector}"
        )
    folder = args.output or Path("runs") / path.stem
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
    """Train and return the exit status: 0 after the last epoch, 143 if a signal stopped the training."""
    from pointdet import runtime as runtimes
    from pointdet.training import initial_parameters
    from pointdet.training.run_folder import RunFolder
    from pointdet.training.trainer import Trainer

    settings = config.runtime
    runtime = runtimes.start(*flags.device(args), settings.cpu_kernels, settings.communication_timeout)
    with RunFolder(folder, runtime) as run_folder:
        last = run_folder.checkpoint(args.resume, args.iter)
        train_set, val_set = splits(config, runtime.ranks)
        model = initial_parameters.fresh(config, train_set.class_names, runtime)
        if last is None and args.checkpoint is not None:
            initial_parameters.load_parameters(args.checkpoint, model)
        elif last is None and config.model.pretrained_model_dir is not None:
            initial_parameters.load_imagenet(model)
        with loader(model, train_set) as batches:
            trainer = Trainer(model, batches, val_set, folder)
            if last is not None:
                trainer.resume(last)
            run_folder.open(config)
            if args.iter:
                run_folder.set_aside_newer(args.iter)
            finished = trainer.run()
    logger.info("the run is in %s", folder)
    return 0 if finished else 128 + signal.SIGTERM


def splits(config: Config, ranks: Ranks | None = None) -> tuple[Dataset, Dataset | None]:
    """The training images, and the validation images or None if the configuration has none.

    `ranks`: those that all make this call; None: this process reads by itself.
    """
    train_set = read_dataset(config.dataset, "train", ranks=ranks)
    logger.info("%d training images, classes: %s", len(train_set), ", ".join(train_set.class_names))
    if config.dataset.val is None:
        return train_set, None
    return train_set, read_dataset(config.dataset, "val", train_set.class_names, ranks)


def loader(model: Model, train_set: Dataset) -> Loader:
    """The loader of this rank: batches of augmented training images with the targets of the detector."""
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
    """Print a report on the training and validation images."""
    from pointdet.data.check import check_dataset

    for dataset in splits(config):
        if dataset is not None:
            print(visible_lines(str(check_dataset(dataset))), end="\n\n")


def preview(config: Config, folder: Path, count: int) -> None:
    """Write `count` augmented training images with their boxes to folder/preview, and print the paths."""
    from pointdet.data.preview import write_previews
    from pointdet.runtime import start
    from pointdet.training.initial_parameters import fresh

    train_set, _ = splits(config)
    few = load.override(config, ["train.workers=0", f"train.batch_size={min(count, len(train_set))}"])
    model = fresh(few, train_set.class_names, start())
    with loader(model, train_set) as batches:
        for path in write_previews(
            batches, model.detector.codec, config.input, train_set.class_names, folder / "preview", count
        ):
            print(path)
