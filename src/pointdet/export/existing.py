# SPDX-License-Identifier: Apache-2.0
"""An export replaces its own earlier files only."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.message import DecodeError

from pointdet.errors import PointDetError
from pointdet.model.exported import METADATA_KEY
from pointdet.model.metadata import is_ours


def refuse_foreign(path: Path) -> None:
    """Errors: PointDetError if writing the network `path` would replace a file that is not from an export."""
    metadata = path.with_suffix(".json")
    if path.suffix == ".nnp":
        ours = metadata.is_file() and is_ours(metadata.read_bytes())
        foreign = [one for one in (metadata, path) if one.exists() and not ours]
    else:
        foreign = [path] if path.exists() and not _is_our_onnx(path) else []
    if foreign:
        raise PointDetError(
            f"{foreign[0]} exists and was not written by an export of PointDet; give another --output or move it"
        )


def _is_our_onnx(path: Path) -> bool:
    import onnx  # not installed everywhere, and not needed for .nnp

    try:
        properties = onnx.load(path, load_external_data=False).metadata_props
    except (DecodeError, OSError):
        return False
    return any(entry.key == METADATA_KEY and is_ours(entry.value) for entry in properties)
