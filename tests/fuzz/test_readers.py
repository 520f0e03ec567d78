# SPDX-License-Identifier: Apache-2.0
"""Every reader of files gets mutated input: each one is read or refused in one sentence.

There is no traceback, no hang, no signal, no code of the file is run, nothing is printed, and the memory is bounded.
POINTDET_FUZZ_INPUTS sets the number of inputs per reader (60), POINTDET_FUZZ_SEED their seed (1).
"""

import os

import pytest
from fuzz import campaign, corpus
from fuzz.readers import READERS

INPUTS = int(os.environ.get("POINTDET_FUZZ_INPUTS", "60"))
SEED = int(os.environ.get("POINTDET_FUZZ_SEED", "1"))


@pytest.fixture(scope="module")
def seed_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "corpus"
    corpus.write(folder)
    return folder


@pytest.mark.parametrize("reader", READERS)
def test_mutated_input_is_read_or_refused(tmp_path, seed_files, reader):
    inputs = max(1, round(INPUTS * READERS[reader].share))
    result = campaign.run(seed_files, reader, inputs, tmp_path, SEED)
    assert not result.faults, "\n".join(
        f"input {n}: {fault}" for n, fault in sorted(result.faults.items())[:3]
    )
    assert result.counts.total() == inputs
    assert result.counts["refused"] or result.counts["read"] == inputs


def test_the_harness_sees_every_kind_of_fault(tmp_path, seed_files, monkeypatch):
    """A reader that misbehaves in all ways: the numbers of its inputs say how."""
    monkeypatch.setenv("POINTDET_FUZZ_SECONDS", "2")
    result = campaign.run(seed_files, "misbehaving", 9, tmp_path)
    assert result.counts == dict.fromkeys(campaign.KINDS, 1) | {"traceback": 2}
