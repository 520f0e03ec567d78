# SPDX-License-Identifier: Apache-2.0
"""Kills trainings at random moments and resumes them: nothing may be lost, nothing may stay behind.

A training of a small network is killed again and again, each time resumed with --resume auto, until it ends. Killed
are the whole job, one rank, one loader process or mpirun; every third kill waits until a checkpoint is being
written. After each kill:

* no process of the job lives on, and no shared memory is left. Only Open MPI leaves segments of its own if mpirun or a
  rank is killed; they are in a folder of the job here, and are counted;
* the newest checkpoint can be read to its end, and is not older than before;
* the end of the resumed training is that of an uninterrupted one: rows of the journal, parameters, moments,
  averages and running statistics of every rank are equal bit for bit.

Exit status 1: one of these is wrong. The counts are printed.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import machine
import numpy as np
from cluster import launch

from pointdet.data.shapes import draw_shapes
from pointdet.errors import PointDetError
from pointdet.files import finish_replacements
from pointdet.weights import checkpoint, h5_file

MAIN = Path(__file__).parents[1] / "src" / "main.py"
EPOCHS, IMAGES, SIDE = 6, 32, 64
OF_TIME = ("images_per_second", "waiting_for_data")
VICTIMS = ("job", "rank", "worker", "mpirun")
KILLS_OF_A_RUN = 10  # then it may end
ENDED = "the run had ended"
TIME_TO_END = 30.0  # seconds in which the rest of a job must end after a kill
SHARED_MEMORY = Path("/dev/shm")
OPEN_MPI = "sm_segment."

CONFIG = """
dataset:
  {{dataset: shapes, format: coco, data_dir: {data},
    train: {{annotations: [annotations/instances_train.json], images: train}},
    val: {{annotations: [annotations/instances_val.json], images: val}}}}
model: {{width: 0.125, head_channels: 8}}
input: {{height: {side}, width: {side}}}
train:
  {{num_epochs: {epochs}, batch_size: {batch}, workers: 1, log_intervals: 1, val_intervals: 1, save_intervals: 2,
    keep_checkpoints: 2, save_minutes: 0.01, ema_decay: 0.9, learning_rate: {{base_lr: 0.001, warmup_epochs: 1}}}}
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="for each number of ranks (default: 100)")
    parser.add_argument(
        "--ranks", type=int, nargs="+", default=[1, 2], help="numbers of ranks (default: 1 2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims (default: 0)")
    args = parser.parse_args()
    print(machine.describe())
    faults: list[str] = []
    for ranks in args.ranks:
        with tempfile.TemporaryDirectory() as folder:
            faults += campaign(Path(folder), ranks, args.kills, random.Random(f"{args.seed} {ranks}"))
    for fault in faults:
        print("FAULT", fault)
    print("nothing was lost" if not faults else f"{len(faults)} faults")
    return 1 if faults else 0


def campaign(folder: Path, ranks: int, kills: int, rng: random.Random) -> list[str]:
    """Kill trainings of `ranks` ranks `kills` times. Returns what was wrong."""
    draw_shapes(folder / "data", IMAGES, 0, SIDE, SIDE, "train")
    draw_shapes(folder / "data", 4, 1, SIDE, SIDE, "val")
    text = CONFIG.format(data=folder / "data", side=SIDE, epochs=EPOCHS, batch=4 // ranks)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    began = time.monotonic()
    whole = Job(folder, "whole", ranks)
    status = whole.wait()
    duration = time.monotonic() - began
    if status:
        return [f"the uninterrupted training ended with status {status}: {whole.output()}"]
    counts: Counter[str] = Counter()
    faults: list[str] = []
    done, number = 0, 0
    while done < kills:
        number += 1
        name = f"run_{number}"
        for _ in range(KILLS_OF_A_RUN):
            what, problem = kill_once(folder, name, ranks, duration, rng)
            faults += [f"{ranks} rank(s), {name}, {what}: {problem}"] if problem else []
            if what == ENDED:  # before the moment of the kill
                break
            counts[what] += 1
            done += 1
        last = Job(folder, name, ranks)
        if last.wait():
            faults.append(f"{ranks} rank(s), {name} cannot be resumed: {last.output()}")
        elif difference := compare(folder / name, folder / "whole"):
            faults.append(f"{ranks} rank(s), {name} differs from the uninterrupted run: {difference}")
        else:
            counts["runs that ended like the uninterrupted one"] += 1
    print(f"\n{ranks} rank(s), a run of {duration:.0f} s")
    for what, count in sorted(counts.items()):
        print(f"  {what:<48} {count:>4}")
    return faults


class Job:
    """A training that was started or resumed, in a session of its own."""

    def __init__(self, folder: Path, name: str, ranks: int) -> None:
        self._log, self.segments = folder / f"{name}.log", folder / "segments"
        self.segments.mkdir(exist_ok=True)
        command = [
            sys.executable,
            MAIN,
            "ctdet",
            "--train-config",
            folder / "config.yaml",
            "-o",
            folder / name,
        ]
        if ranks > 1:
            command[:0] = [launch.mpirun(), "--oversubscribe", "-n", str(ranks)]
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [*map(str, command), "--resume", "auto", "--gpus", "-1"],
                env=launch.environment()
                | {"PYTHONPATH": str(MAIN.parent), "OMPI_MCA_btl_sm_backing_directory": str(self.segments)},
                start_new_session=True,
                stdout=output,
                stderr=output,
            )

    def wait(self) -> int:
        return self.process.wait(timeout=300)

    def output(self) -> str:
        return self._log.read_text(errors="replace")[-1000:]

    def members(self) -> dict[int, str]:
        """The living processes of the session: pid -> command line."""
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                command = (stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it has just ended
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                found[int(stat.parent.name)] = command
        return found

    def victims(self, kind: str) -> list[int]:
        """The processes of a kind."""
        workers = {pid for pid, command in self.members().items() if "spawn_main" in command}
        pythons = {
            pid for pid, command in self.members().items() if "main.py" in command and pid not in workers
        }
        mpirun = {self.process.pid} & pythons if len(pythons) > 1 else set()
        return sorted({"job": set(), "rank": pythons - mpirun, "worker": workers, "mpirun": mpirun}[kind])


def kill_once(folder: Path, name: str, ranks: int, duration: float, rng: random.Random) -> tuple[str, str]:
    """Start or resume the run and kill it. Returns what was killed, and what is wrong or an empty text."""
    kind = rng.choice(VICTIMS[: 4 if ranks > 1 else 3])
    aimed = rng.random() < 1 / 3
    checkpoints, before = folder / name / "checkpoints", shared_memory()
    step = newest_step(checkpoints)
    job = Job(folder, name, ranks)
    until = time.monotonic() + rng.uniform(0, duration / 2)
    while time.monotonic() < until and job.process.poll() is None:
        if aimed and (any(checkpoints.glob(".*.writing")) or any(checkpoints.glob(".*.old"))):
            break
        time.sleep(0.0005 if aimed else 0.01)
    ended = job.process.poll() is not None
    chosen = job.victims(kind)
    if chosen:
        send(rng.choice(chosen))
    else:
        kind = "job"
        for pid in job.members():
            send(pid)
    what = ENDED if ended else f"{kind} killed" + (", while writing" if aimed else "")
    deadline = time.monotonic() + TIME_TO_END
    while job.members() and time.monotonic() < deadline:
        time.sleep(0.05)
    if left := job.members():
        for pid in left:
            send(pid)
        return what, f"still running: {left}"
    job.process.wait()
    if extra := shared_memory() - before:
        return what, f"left in shared memory: {sorted(extra)}"
    segments = list(job.segments.iterdir())
    for segment in segments:
        segment.unlink()
    what += ", Open MPI's segments left" * bool(segments)
    try:
        now = newest_step(checkpoints)
    except PointDetError as error:
        return what, str(error)
    return what, "" if now >= step else f"the newest checkpoint is of step {now}, and before of step {step}"


def send(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def shared_memory() -> set[str]:
    """The names in shared memory, without the segments of other MPI programs."""
    names = {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()
    return {name for name in names if not name.startswith(OPEN_MPI)}


def newest_step(checkpoints: Path) -> int:
    """The step of the newest checkpoint, 0 if there is none. Errors: PointDetError if one is not whole."""
    finish_replacements(checkpoints)
    steps = [0]
    for path in checkpoints.glob("*/state.json"):
        if not path.parent.name.startswith("."):
            for file in path.parent.glob("*.h5"):
                h5_file.read(file)
            steps.append(checkpoint.iteration(checkpoint.read_state(path.parent)))
    return max(steps)


def compare(folder: Path, whole: Path) -> str:
    """The first difference between two finished runs, or an empty text."""
    rows, expected = ([without_time(row) for row in journal(f)] for f in (folder, whole))
    if rows != expected:
        return f"journal.csv, {len(rows)} rows and {len(expected)}"
    for file in sorted((whole / "checkpoints").glob("*/*.h5")):
        other = folder / "checkpoints" / file.relative_to(whole / "checkpoints")
        found, wanted = h5_file.read(other), h5_file.read(file)
        if set(found) != set(wanted) or any((found[n] != a).any() for n, a in wanted.items() if a.size):
            return str(file.relative_to(whole))
        assert all(np.isfinite(array).all() for array in wanted.values())
    return ""


def journal(folder: Path) -> list[dict[str, str]]:
    with (folder / "journal.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_time(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name not in OF_TIME}


if __name__ == "__main__":
    sys.exit(main())
