# SPDX-License-Identifier: Apache-2.0
"""What a path is, by its content: a checkpoint, the folder of a run, or a file of one of the known formats."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pointdet.errors import PointDetError, first_few
from pointdet.weights import zip_file

Kind = Literal[
    "nothing", "checkpoint", "run", "checkpoints", "folder",
    "h5", "nnp", "onnx", "safetensors", "npz", "torch", "other",
]  # fmt: skip
KERNEL = 4  # axes of the kernel of a convolution
HDF5 = b"\x89HDF\r\n\x1a\n"
SUFFIXES: dict[str, Kind] = {
    ".h5": "h5", ".nnp": "nnp", ".onnx": "onnx", ".safetensors": "safetensors", ".npz": "npz",
    ".pth": "torch", ".pt": "torch", ".pkl": "torch", ".t7": "torch",
}  # fmt: skip
WHAT: dict[Kind, str] = {
    "checkpoint": "a checkpoint folder",
    "run": "the folder of a run, not a checkpoint",
    "checkpoints": "a folder of checkpoints",
    "h5": "an .h5 parameter file",
    "nnp": "an exported network (.nnp)",
    "onnx": "an exported network (.onnx)",
    "safetensors": "a safetensors file",
    "npz": "an .npz file",
    "torch": "a weight file of torch",
}


def of(path: Path) -> Kind:
    """The kind of a path. The suffix decides only where the content does not, as in a damaged file."""
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        return "nothing"
    by_suffix = SUFFIXES.get(path.suffix, "other")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return by_suffix
    if start.startswith(HDF5):
        return "h5"
    if start.startswith(b"PK\3\4"):
        return _archive(path) or by_suffix
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size:
        return "safetensors"
    return "torch" if start.startswith(b"\x80") else by_suffix


def _folder(path: Path) -> Kind:
    if (path / "state.json").is_file():
        return "checkpoint"
    if (path / "checkpoints").is_dir():
        return "run"
    return "checkpoints" if _checkpoints(path) else "folder"


def _archive(path: Path) -> Kind | None:
    """The kind of a zip file, by the names of its members."""
    try:
        with zip_file.opened(path) as archive:
            names = archive.namelist()
    except zip_file.ERRORS:
        return None
    if "network.nntxt" in names:
        return "nnp"
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    return "npz" if names and all(name.endswith(".npy") for name in names) else None


def _checkpoints(folder: Path) -> list[str]:
    """The names of the checkpoints in a folder, `best` first and `last` second."""
    names = sorted(path.parent.name for path in folder.glob("*/state.json"))
    return sorted(
        (name for name in names if not name.startswith(".")), key=lambda n: (n != "best", n != "last", n)
    )


def check(path: Path, *wanted: Kind) -> None:
    """Errors: PointDetError unless the path is of a wanted kind. It says what the path is and what takes it."""
    kind = of(path)
    if kind not in wanted:
        raise wrong(path, kind, wanted)


def wrong(path: Path, kind: Kind, wanted: tuple[Kind, ...]) -> PointDetError:
    """The error for a path of another kind than those that are wanted."""
    usable = [WHAT[one] for one in wanted if one in WHAT]
    expected = " or ".join([", ".join(usable[:-1]), usable[-1]] if len(usable) > 1 else usable)
    if kind == "nothing":
        return PointDetError(f"there is no {path}; give {expected}")
    if kind == "folder":
        return PointDetError(f"{path} is no checkpoint, it has no state.json; give .../checkpoints/best")
    if kind == "other":
        return PointDetError(f"{path} is not {expected}; give one of these")
    return PointDetError(f"{path} is {WHAT[kind]}; {_use(path, kind)}")


def _use(path: Path, kind: Kind) -> str:
    """What to do with a path of a known kind."""
    match kind:
        case "run":
            found = _checkpoints(path / "checkpoints")
            return f"give {path / 'checkpoints' / found[0]}" if found else "it has no checkpoint yet"
        case "checkpoints":
            return f"give one of them: {first_few(_checkpoints(path), 6)}"
        case "nnp" | "onnx":
            return "test.py and demo.py take it with --checkpoint; otherwise give the checkpoint it was exported from"
        case "checkpoint":
            return f"main.py, test.py, demo.py and save_nnp.py take it with --checkpoint, and convert_weights.py {path} X.safetensors exports it"
        case "h5":
            return f"test.py, demo.py and save_nnp.py take it with --checkpoint, and convert_weights.py {path} FOLDER makes a checkpoint of it"
    return f"convert_weights.py {path} FOLDER makes a checkpoint of it, which --checkpoint takes"


def checkpoint_of(path: Path) -> Path | None:
    """The checkpoint folder that `path` is, or that it is a parameter file of; otherwise None."""
    folder = path if path.is_dir() else path.parent
    is_part = path.is_dir() or path.suffix == ".h5"
    return folder if is_part and (folder / "state.json").is_file() else None


def of_integers(path: Path, name: str, kind: str) -> PointDetError:
    """The error for the kernel `name` of a file that consists of integers."""
    return PointDetError(
        f"{name} of {path} consists of integers ({kind}), as in quantised networks; give the file with float weights"
    )
