# SPDX-License-Identifier: Apache-2.0
"""Runs the mutated inputs of one reader in child processes, and counts what happened.

By hand: python tests/fuzz/campaign.py INPUTS [READER ...] prints a table; tests/ and src/ must be in PYTHONPATH.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.readers import READERS

HERE = Path(__file__).parent
MAX_DEATHS = 200  # of child processes; each one costs the time of its imports
# "read" and "refused" are right.
KINDS = ("read", "refused", "traceback", "hang", "signal", "code", "printed", "message")


@dataclass
class Result:
    """What happened to the inputs of one reader."""

    counts: Counter[str] = field(default_factory=Counter)  # by one of KINDS
    faults: dict[int, str] = field(default_factory=dict)  # number of the input -> kind and detail


def run(corpus: Path, reader: str, inputs: int, folder: Path, seed: int = 1) -> Result:
    """Read `inputs` mutated files. A child process that dies is replaced by one that goes on after its input."""
    folder.mkdir(parents=True, exist_ok=True)
    result, first = Result(), 0
    for number in range(MAX_DEATHS):
        report = folder / f"{reader} {number}.jsonl"
        arguments = [
            str(HERE / "child.py"),
            str(corpus),
            reader,
            str(inputs),
            str(report),
            str(first),
            str(seed),
        ]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        child = subprocess.run(
            [sys.executable, *arguments], check=False, env=environment, capture_output=True
        )
        last = _count(report, result)
        if child.returncode == 0:
            return result
        assert last is not None, child.stderr.decode(errors="replace")
        kind = "hang" if child.returncode > 0 else "signal"
        result.counts[kind] += 1
        result.faults[last] = f"{kind} {child.returncode}: {report.read_text(errors='replace')[-1500:]}"
        first = last + 1
    return result


def _count(report: Path, result: Result) -> int | None:
    """Add the inputs of a report. Returns the number of the input at which the process died, or of the last one."""
    last = None
    for line in report.read_text(encoding="utf-8", errors="replace").splitlines() if report.exists() else ():
        if not line.startswith('{"index"'):
            continue
        entry = json.loads(line)
        last = entry["index"]
        if "kind" in entry:
            result.counts[entry["kind"]] += 1
            if entry["kind"] not in ("read", "refused"):
                result.faults[last] = f"{entry['kind']}: {entry['detail']}"
    return last


def main() -> None:
    from fuzz import corpus

    inputs, names = int(sys.argv[1]), sys.argv[2:] or list(READERS)
    with tempfile.TemporaryDirectory() as name:
        kept = os.environ.get("POINTDET_FUZZ_CORPUS")
        folder = Path(kept) if kept else Path(name) / "corpus"
        if not folder.exists():
            corpus.write(folder)
        print(f"{'reader':<16}" + "".join(f"{kind:>10}" for kind in KINDS))
        total: Counter[str] = Counter()
        for reader in names:
            result = run(folder, reader, max(1, round(inputs * READERS[reader].share)), Path(name) / reader)
            print(f"{reader:<16}" + "".join(f"{result.counts[kind]:>10}" for kind in KINDS), flush=True)
            total.update(result.counts)
            for number, fault in sorted(result.faults.items()):
                print(f"--- {reader} {number}: {fault}", file=sys.stderr, flush=True)
        print(f"{'all':<16}" + "".join(f"{total[kind]:>10}" for kind in KINDS))


if __name__ == "__main__":
    main()
