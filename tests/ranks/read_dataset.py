# SPDX-License-Identifier: Apache-2.0
"""Program of every rank in test_one_reader.py: python read_dataset.py CONFIG. Rank 0 prints what each rank has."""

import json
import os
import sys
import zlib

from pointdet.config import load
from pointdet.data.catalogue import read_dataset
from pointdet.programs.run import run_program
from pointdet.runtime import start

opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)


def run():
    ranks = start().ranks
    dataset = read_dataset(load.load(sys.argv[1]).dataset, "train", ranks=ranks)
    records = dataset.records
    found = {
        "reads": sum(path.endswith(".json") for path in opened),
        "inode": os.fstat(records.memory.descriptor).st_ino,
        "paths": [record.image_path for record in records],
        "boxes": zlib.crc32(records.objects.boxes.tobytes()),
        "class_names": dataset.class_names,
    }
    every = ranks.gather(found)
    if every is not None:
        print(json.dumps(every))


if __name__ == "__main__":
    run_program(run)
