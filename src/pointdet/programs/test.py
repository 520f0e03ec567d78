# SPDX-License-Identifier: Apache-2.0
"""Measure AP (also with mpirun) or speed: pointdet test --checkpoint RUN/checkpoints/best --data_dir DATA.

The loader's worker processes import this module too, and must not import NNabla. So modules that need NNabla
are imported inside functions.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pointdet.errors import PointDetError, visible_lines
from pointdet.files import write_text
from pointdet.programs import flags
from pointdet.programs.parser import Parser
from pointdet.weights.checkpoint import at_iteration

if TYPE_CHECKING:
    from pointdet.evaluation.metrics import Metrics
    from pointdet.runtime import Runtime

SPLITS = {"training": "train", "validation": "val", "testing": "test"}


def parse(arguments: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = Parser(
        prog=prog,
        description="Measure the average precision (AP) of one or many checkpoints, or the speed of one.",
    )
    flags.add_model_flags(parser)
    flags.add_test_flags(parser)
    parser.add_argument(
        "--checkpoint_dir",
        type=Path,
        metavar="FOLDER",
        help="measure all checkpoints in this folder and its subfolders",
    )
    parser.add_argument(
        "--testiter",
        type=int,
        metavar="N",
        help="measure only the checkpoint after N steps of the run in --checkpoint_dir",
    )
    parser.add_argument(
        "--split",
        type=lambda name: SPLITS.get(name, name),
        choices=("train", "val", "test"),
        help="images of the dataset; training, validation and testing also work (default: test, or val if "
        "the configuration has no test)",
    )
    parser.add_argument(
        "--benchmark",
        type=int,
        nargs="?",
        const=32,
        metavar="N",
        help="measure time, operations and memory on the first N images instead of AP (default N: 32)",
    )
    parser.add_argument(
        "--debug",
        type=int,
        nargs="?",
        const=100,
        metavar="N",
        help="also draw the first N images with their ground truth and the detections of a score of at least "
        "--vis_thresh, side by side (default N: 100)",
    )
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return the exit status. `prog`: name of the command in its help text."""
    args = parse(arguments, prog)
    if (args.checkpoint is None) == (args.checkpoint_dir is None):
        raise PointDetError("give one of --checkpoint and --checkpoint_dir")
    if args.benchmark is not None and (
        args.benchmark < 1 or args.checkpoint is None and args.testiter is None
    ):
        raise PointDetError("--benchmark measures one --checkpoint, with one image or more")
    if args.debug is not None and (args.debug < 1 or args.benchmark is not None):
        raise PointDetError("--debug draws one image or more, and no --benchmark")
    if args.testiter is not None:
        args.checkpoint = checkpoint_at(args.checkpoint_dir, args.testiter)
    found = [] if args.checkpoint is not None else checkpoints_below(args.checkpoint_dir)

    from pointdet.programs.from_flags import start_runtime

    runtime = start_runtime(args)
    if args.benchmark is not None:
        benchmark(args, runtime)
        return 0
    if args.checkpoint is not None:
        test(args, runtime, args.checkpoint, args.save_dir)
        return 0
    rows: list[tuple[str, Metrics]] = []
    for checkpoint in found:
        name = checkpoint.relative_to(args.checkpoint_dir).as_posix()
        rows.append((name, test(args, runtime, checkpoint, args.save_dir / name)))
        if runtime.ranks.rank == 0:
            write_csv(rows, args.save_dir / "checkpoints.csv")
    if runtime.ranks.rank == 0:
        print(f"\n{summary(rows)}; written to {args.save_dir / 'checkpoints.csv'}")
    return 0


def checkpoint_at(folder: Path | None, iteration: int) -> Path:
    """The checkpoint after `iteration` steps. `folder`: the run folder or its folder checkpoints."""
    if folder is None:
        raise PointDetError("--testiter chooses one checkpoint of a run; give --checkpoint_dir RUN with it")
    return at_iteration(folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder, iteration)


def checkpoints_below(folder: Path) -> list[Path]:
    """All checkpoint folders and .h5 files in `folder` and its subfolders, in natural order.

    Left out: .h5 files inside checkpoint folders, solver states (``states_N.h5``), and hidden folders, which
    are incomplete checkpoints of interrupted jobs. Errors: PointDetError when there is no checkpoint.
    """
    folders = [path.parent for path in folder.rglob("state.json")]
    files = [p for p in folder.rglob("*.h5") if p.parent not in folders and not p.name.startswith("states_")]
    found = [
        p for p in folders + files if not any(part.startswith(".") for part in p.relative_to(folder).parts)
    ]
    if not found:
        raise PointDetError(
            f"there is no checkpoint below {folder}; give a folder with checkpoint folders or .h5 files"
        )
    return sorted(found, key=lambda path: natural_sort_key(path.relative_to(folder).as_posix()))


def natural_sort_key(name: str) -> list[tuple[str, int]]:
    """A sort key that compares the numbers in names by value: epoch_2 before epoch_10."""
    return [(text, int(digits or -1)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def test(args: argparse.Namespace, runtime: Runtime, checkpoint: Path, folder: Path) -> Metrics:
    """Measure the AP of one checkpoint on all ranks. Rank 0 prints and writes the metrics, every rank returns them."""
    from pointdet.data.catalogue import read_dataset
    from pointdet.evaluation.metrics import measure
    from pointdet.evaluation.pictures import write_pictures
    from pointdet.evaluation.report import table, write_detections, write_metrics
    from pointdet.evaluation.run import evaluate
    from pointdet.inference.predictor import Predictor
    from pointdet.programs.from_flags import restore_model
    from pointdet.ranks.long_work import from_rank_0

    model = restore_model(args, runtime, checkpoint)
    config = model.config.dataset
    dataset = read_dataset(
        config, args.split or ("test" if config.test else "val"), model.class_names, runtime.ranks
    )
    start = time.perf_counter()
    detections = evaluate(Predictor.of(model), dataset, runtime.ranks)
    seconds = time.perf_counter() - start

    def measure_and_write() -> Metrics:
        metrics = measure(dataset, detections, config.metric, rates=True)
        write_detections(folder / "detections.json", dataset, detections)
        write_metrics(folder / "metrics.json", dataset, config.metric, metrics)
        if args.debug is not None:
            shown = model.config.test.vis_thresh
            number = write_pictures(folder / "debug", dataset, detections, shown, args.debug)
            print(f"{number} pictures of ground truth and detections in {folder / 'debug'}")
        print(visible_lines(f"\n{checkpoint}\n{table(dataset, config.metric, metrics)}"))
        print(f"\n{len(dataset) / seconds:.1f} images/s; written to {folder}", flush=True)
        return metrics

    return from_rank_0(runtime.ranks, measure_and_write)


def benchmark(args: argparse.Namespace, runtime: Runtime) -> None:
    """Measure time, operations and memory of the detection. Prints them and writes benchmark.json."""
    from pointdet.data.catalogue import read_dataset
    from pointdet.evaluation.cost import measure_cost, table, write_cost
    from pointdet.inference import engine as engines
    from pointdet.inference.predictor import Predictor
    from pointdet.programs.from_flags import restore_model

    if runtime.ranks.size > 1:
        raise PointDetError("the benchmark runs in a single process; start it without mpirun")
    model = restore_model(args, runtime, args.checkpoint)
    config = model.config.dataset
    dataset = read_dataset(config, args.split or ("test" if config.test else "val"), model.class_names)
    records = dataset.records[: args.benchmark]
    engine = engines.of(args.checkpoint, args.engine)
    cost = measure_cost(Predictor.of(model), model, records, f"{engine}, {runtime.describe()}")
    write_cost(args.save_dir / "benchmark.json", cost)
    print(f"\n{args.checkpoint}\n{table(cost)}\n\nwritten to {args.save_dir}", flush=True)


def write_csv(rows: Sequence[tuple[str, Metrics]], path: Path) -> None:
    """Write the mean metrics of the checkpoints."""
    means = [name for name in rows[0][1] if "/" not in name]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["checkpoint", *means])
    writer.writerows([name, *(metrics[mean] for mean in means)] for name, metrics in rows)
    write_text(path, text.getvalue())


def summary(rows: Sequence[tuple[str, Metrics]]) -> str:
    """A table of AP and FD of all checkpoints in percent, and the checkpoint with the highest AP."""
    means = [name for name in rows[0][1] if "/" not in name and (name.startswith("AP") or name == "FD")]
    wide = max(len(name) for name in ("checkpoint", *(name for name, _ in rows)))
    lines = [" ".join([f"{'checkpoint':<{wide}}", *(f"{mean:>6}" for mean in means)])]
    lines += [" ".join([f"{name:<{wide}}", *(f"{100 * m[mean]:6.1f}" for mean in means)]) for name, m in rows]
    measured = [(metrics["AP"], name) for name, metrics in rows if not math.isnan(metrics["AP"])]
    ap, best = max(measured, key=lambda pair: pair[0], default=(math.nan, "none"))
    return "\n".join([*lines, f"best: {best}, AP {100 * ap:.2f}"])
