# SPDX-License-Identifier: Apache-2.0
"""Only one of several ranks reads the annotations; the others have the same dataset in the same memory."""

import json
from pathlib import Path

import pytest
import tiny

from pointdet.config.load import dump

HERE = Path(__file__).parent
MAIN = HERE.parents[1] / "src" / "main.py"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tiny.draw(folder / "data", train=6, val=2)
    (folder / "tiny.yaml").write_text(dump(tiny.config(folder / "data")), encoding="utf-8")
    return folder / "tiny.yaml"


def test_one_rank_reads_for_all(config, mpirun):
    result = mpirun(3, HERE / "read_dataset.py", config)
    assert result.returncode == 0, result.stderr
    first, *others = json.loads(result.stdout.splitlines()[-1])
    assert first["reads"] == 1 and len(first["paths"]) == 6
    for other in others:
        assert other == first | {"reads": 0}


def test_an_error_is_printed_once_and_ends_all_ranks(config, mpirun, tmp_path):
    (path,) = (config.parent / "data" / "annotations").glob("*train*.json")
    whole = path.read_text()
    try:
        path.write_text(whole.replace('"image_id": 1', '"image_id": "1"', 1))
        result = mpirun(3, MAIN, "ctdet", "--train-config", config, "-o", tmp_path / "run", "--gpus", "-1")
    finally:
        path.write_text(whole)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert "$.annotations[0].image_id: 'image_id' of entry 0 of 'annotations' is '1' instead of" in line
    assert "Traceback" not in result.stderr
