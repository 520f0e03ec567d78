# SPDX-License-Identifier: Apache-2.0
"""The flags that several programs share, and the overrides, device and configuration that they select."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

from pointdet.config import load, shipped
from pointdet.config.schema import Config, DatasetConfig, RuntimeConfig
from pointdet.errors import PointDetError

DETECTORS = ("ctdet", "cornernet", "triplet")


def add_model_flags(parser: argparse.ArgumentParser, exported: bool = True) -> None:
    """Flags for the checkpoint, its configuration, the output folder and the device.

    exported: whether the program also takes exported networks.
    """
    add_detector_flag(parser)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="PATH",
        help="checkpoint folder, or .h5, .onnx or .nnp file" if exported else "checkpoint folder or .h5 file",
    )
    save_dir = Path("runs") / Path(parser.prog.split()[-1]).stem
    parser.add_argument(
        "--save_dir",
        type=Path,
        default=save_dir,
        metavar="FOLDER",
        help=f"output folder (default: {save_dir})",
    )
    add_run_flags(parser)
    h5_file = parser.add_argument_group(
        "configuration of an .h5 file",
        "An .h5 file does not contain its configuration. Give --train-config, or the detector, --dataset, --arch "
        "and --num_layers. Other checkpoints contain their configuration; these flags must not contradict it.",
    )
    h5_file.add_argument(
        "--train-config", type=Path, metavar="FILE", help="YAML file, or name of a shipped configuration"
    )
    h5_file.add_argument("--dataset", help="name of the dataset, such as coco or pascal")
    h5_file.add_argument("--arch", help="backbone, such as resnet or dlav0")
    h5_file.add_argument("--num_layers", type=int, help="depth of the backbone, such as 18")
    add_swap_heads_flag(h5_file)


def add_detector_flag(parser: argparse.ArgumentParser) -> None:
    """The detector. It is optional, because the configuration or the checkpoint contains it."""
    parser.add_argument(
        "detector",
        nargs="?",
        choices=DETECTORS,
        help="optional; must be the detector of the configuration or checkpoint",
    )


def add_swap_heads_flag(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--swap_heads",
        choices=("ask", "yes", "no"),
        default="ask",
        help="exchange the size head and the offset head, as for .h5 files from before February 2023 (default: ask, "
        "which stops with an error if the heads seem to be exchanged)",
    )


def add_set_flag(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the configuration, e.g. --set train.batch_size=8; may be repeated",
    )


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Flags for overrides of the configuration, and for the device."""
    add_set_flag(parser)
    parser.add_argument(
        "--data_dir", type=Path, metavar="FOLDER", help="data folder; overrides dataset.data_dir"
    )
    parser.add_argument(
        "--extension_module",
        choices=("cpu", "cudnn"),
        help="device: CPU or NVIDIA GPU (default: cudnn if it is installed, else cpu; an export always uses the CPU "
        "if neither this flag nor --gpus is given)",
    )
    parser.add_argument(
        "--gpus",
        type=gpu_numbers,
        metavar="N,N,...",
        help="GPUs of a host, one for each of its ranks, counted within CUDA_VISIBLE_DEVICES (default: all); -1: CPU",
    )


def gpu_numbers(text: str) -> tuple[int, ...]:
    """The numbers of --gpus; () for -1, which means the CPU."""
    if text.strip() == "-1":
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of GPU numbers such as 0,1, nor -1 for the CPU"
        )
    numbers = tuple(map(int, parts))
    if len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"{text!r} names a GPU twice; give each rank a GPU of its own")
    return numbers


def add_test_flags(parser: argparse.ArgumentParser) -> None:
    """Flags for the engine and the test settings. Flags that are not given change nothing."""
    parser.add_argument(
        "--engine",
        choices=("nnabla", "onnxruntime"),
        help="library that runs the network (default: onnxruntime for .onnx files, else nnabla)",
    )
    parser.add_argument("--test_flip", action="store_true", help="also run the network on the mirrored image")
    parser.add_argument(
        "--test_scales",
        metavar="S,S,...",
        help="image scales, e.g. 0.5,0.75,1,1.25,1.5; soft-NMS merges their detections",
    )
    parser.add_argument("--keep_res", action="store_true", help="keep the resolution of each image")
    parser.add_argument("--K", type=int, metavar="N", help="maximum number of detections per image")
    parser.add_argument(
        "--vis_thresh", type=float, metavar="SCORE", help="minimum score of the detections that are shown"
    )


def overrides(flags: argparse.Namespace) -> list[str]:
    """The flags as ``key=value`` overrides. --set comes last and has priority."""
    values: dict[str, object] = {
        "dataset.data_dir": None if flags.data_dir is None else str(flags.data_dir),
        "input.height": getattr(flags, "input_h", None),
        "input.width": getattr(flags, "input_w", None),
        "test.flip": getattr(flags, "test_flip", False) or None,
        "test.keep_resolution": getattr(flags, "keep_res", False) or None,
        "test.max_detections": getattr(flags, "K", None),
        "test.vis_thresh": getattr(flags, "vis_thresh", None),
    }
    given = [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]
    if getattr(flags, "test_scales", None) is not None:
        given.append(f"test.scales=[{flags.test_scales}]")
    return given + list(flags.set)


def device(flags: argparse.Namespace, needs_gpu: bool = True) -> tuple[str, tuple[int, ...] | None]:
    """Extension module and numbers of the GPUs, None for all. A request for a GPU never falls back to the CPU.

    needs_gpu: whether the program benefits from a GPU. If not, its default is the CPU.
    """
    if flags.extension_module == "cudnn" and flags.gpus == ():
        raise PointDetError(
            "--extension_module cudnn selects the GPU and --gpus -1 the CPU; leave one of them out"
        )
    if flags.extension_module is not None:
        return flags.extension_module, flags.gpus or None
    if flags.gpus is not None:
        return ("cudnn", flags.gpus) if flags.gpus else ("cpu", None)
    installed = importlib.util.find_spec("nnabla_ext") and importlib.util.find_spec("nnabla_ext.cudnn")
    return ("cudnn" if installed and needs_gpu else "cpu"), None


def requests_gpu(flags: argparse.Namespace) -> bool:
    """Whether a flag requests a GPU."""
    if flags.extension_module is not None:
        return bool(flags.extension_module == "cudnn")
    return bool(flags.gpus)


def runtime_settings(flags: argparse.Namespace) -> RuntimeConfig:
    """The section `runtime` of --set. A checkpoint has the values of the training machine. Errors: PointDetError."""
    plain = Config(dataset=DatasetConfig(dataset="unknown", format="coco"))
    return load.override(plain, [o for o in overrides(flags) if o.startswith("runtime.")]).runtime


def config_of(flags: argparse.Namespace, checkpoint: Path) -> Config | None:
    """The configuration of an .h5 file. None for other checkpoints, which contain their configuration.

    Errors: PointDetError when the flags select no configuration for an .h5 file, or an invalid one.
    """
    if checkpoint.is_dir() or checkpoint.suffix in (".onnx", ".nnp"):
        return None
    return load.load(config_path(flags), overrides(flags))


def config_path(flags: argparse.Namespace) -> Path:
    """The configuration file that the flags select."""
    if flags.train_config is not None:
        return shipped.find(flags.train_config)
    if None in (flags.detector, flags.dataset, flags.arch, flags.num_layers):
        raise PointDetError(
            "an .h5 file does not contain its configuration; "
            "give --train-config FILE, or the detector, --dataset, --arch and --num_layers together"
        )
    name = f"{flags.arch}_{flags.num_layers}_{flags.dataset}_fp"
    path = shipped.FOLDER / f"{flags.detector}_{name}.yaml"
    if not path.is_file() and flags.detector == "ctdet":  # older names do not start with the detector
        path = shipped.FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(shipped.names())
        raise PointDetError(
            f"there is no configuration {path.name}; give --train-config FILE (shipped: {known})"
        )
    return path


def check_agreement(flags: argparse.Namespace, config: Config, source: Path) -> None:
    """Raise PointDetError if a flag contradicts the configuration of `source`."""
    pairs = {
        "detector": (flags.detector, config.detector.name),
        "--dataset": (flags.dataset, config.dataset.dataset),
        "--arch": (flags.arch, config.model.arch),
        "--num_layers": (flags.num_layers, config.model.num_layers),
    }
    for flag, (given, actual) in pairs.items():
        if given is not None and given != actual:
            raise PointDetError(
                f"{flag} {given} disagrees with {source}, which holds {actual}; leave the flag out"
            )
