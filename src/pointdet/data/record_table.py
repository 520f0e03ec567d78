# SPDX-License-Identifier: Apache-2.0
"""The records of a dataset as a few arrays in shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final, overload

import numpy as np

from pointdet.arrays import Int64Array
from pointdet.data.shared_arrays import SharedArrays
from pointdet.structures import Annotation, Record

WHAT, FIX = "the table of the dataset's images and objects", "use a machine with more memory"
# As UTF-8, but a name may also have surrogates: bytes of a file name that are not UTF-8.
ENCODING = ("utf-8", "surrogatepass")


@final
class RecordTable(Sequence[Record]):
    """A sequence of records, which are made when they are asked for. Their arrays are views and cannot be written to.

    A hundred thousand Record objects take 100 MB in each process; this table of COCO's 118,287 images and 860,000
    objects takes 34 MB, once for all processes that unpickle it.
    """

    def __init__(self, memory: SharedArrays) -> None:
        """`memory`: that of another table."""
        for array in memory.arrays.values():
            array.flags.writeable = False
        self.memory = memory
        arrays = memory.arrays
        self.ids = arrays["ids"]  # (N,)
        self.sizes = arrays["sizes"]  # (N, 2) height, width
        self.starts = arrays["starts"]  # (N + 1,): the objects of image i are rows starts[i] to starts[i + 1]
        self._path_ends, self._paths = arrays["path_ends"], arrays["paths"]
        self.objects = Annotation(arrays["boxes"], arrays["labels"], arrays["ignore"], arrays["areas"])

    @staticmethod
    def build(
        ids: Sequence[int], paths: Sequence[str], sizes: Int64Array, starts: Int64Array, objects: Annotation
    ) -> RecordTable:
        """A new table. `objects`: of all images, ordered by image. Errors: PointDetError: not enough memory."""
        encoded = [path.encode(*ENCODING) for path in paths]
        content = {
            "ids": np.array(ids, np.int64),
            "sizes": sizes,
            "starts": starts,
            "path_ends": np.cumsum([0, *map(len, encoded)]),
            "paths": np.frombuffer(b"".join(encoded), np.uint8),
            "boxes": objects.boxes,
            "labels": objects.labels,
            "ignore": objects.ignore,
            "areas": objects.areas,
        }
        memory = SharedArrays.allocate({n: (a.shape, a.dtype) for n, a in content.items()}, WHAT, FIX)
        for name, array in content.items():
            memory.arrays[name][...] = array
        return RecordTable(memory)

    @staticmethod
    def of(records: Sequence[Record]) -> RecordTable:
        """The records as a table: the same object if they are one."""
        if isinstance(records, RecordTable):
            return records
        annotations = [record.annotation for record in records]
        return RecordTable.build(
            [record.image_id for record in records],
            [record.image_path for record in records],
            np.array([(record.height, record.width) for record in records], np.int64).reshape(-1, 2),
            np.cumsum([0, *map(len, annotations)]),
            Annotation(
                boxes=np.concatenate([a.boxes for a in annotations]),
                labels=np.concatenate([a.labels for a in annotations]),
                ignore=np.concatenate([a.ignore for a in annotations]),
                areas=np.concatenate([a.areas for a in annotations]),
            ),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def path(self, index: int) -> str:
        start, end = self._path_ends[index : index + 2].tolist()
        return self._paths[start:end].tobytes().decode(*ENCODING)

    def annotation(self, index: int) -> Annotation:
        """The objects of one image."""
        start, end = self.starts[index : index + 2].tolist()
        rows, every = slice(start, end), self.objects
        return Annotation(every.boxes[rows], every.labels[rows], every.ignore[rows], every.areas[rows])

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, index: int | slice) -> Record | tuple[Record, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        at = range(len(self))[index]
        height, width = self.sizes[at].tolist()
        return Record(int(self.ids[at]), self.path(at), height, width, self.annotation(at))

    def __reduce__(self) -> tuple[type[RecordTable], tuple[SharedArrays]]:
        return RecordTable, (self.memory,)
