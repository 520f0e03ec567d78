# SPDX-License-Identifier: Apache-2.0
"""The flags that the programs share, and what they mean for the configuration; argparse only."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

from pointdet.config.load import load
from pointdet.config.schema import Config
from pointdet.errors import PointDetError

DETECTORS = ("ctdet", "cornernet", "triplet")
CONFIG_FOLDER = Path(__file__).resolve().parents[3] / "cfg"


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Which detector, configuration and device. A checkpoint folder knows all but the device itself."""
    parser.add_argument("detector", choices=DETECTORS)
    parser.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="checkpoint folder, or .h5, .onnx or .nnp file"
    )
    parser.add_argument("--dataset", help="coco, pascal or what else the configuration is called after")
    parser.add_argument("--arch", help="backbone")
    parser.add_argument("--num_layers", type=int, help="depth of the backbone")
    parser.add_argument("--train-config", type=Path, metavar="FILE", help="configuration (YAML)")
    parser.add_argument(
        "--swap_heads",
        choices=("ask", "yes", "no"),
        default="ask",
        help="exchange size and offset head of an .h5 file from before February 2023",
    )
    save_dir = Path("runs") / Path(parser.prog).stem
    parser.add_argument("--save_dir", type=Path, default=save_dir, metavar="FOLDER", help=f"[{save_dir}]")
    add_run_flags(parser)


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Overrides of the configuration, and the device."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key; may be repeated"
    )
    parser.add_argument("--data_dir", type=Path, metavar="FOLDER", help="overrides dataset.data_dir")
    parser.add_argument(
        "--extension_module", choices=("cpu", "cudnn"), help="default: cudnn where it is installed, else cpu"
    )
    parser.add_argument(
        "--gpus", type=int, metavar="N", help="GPU; with several ranks on a host the first one; -1: the CPU"
    )


def add_test_flags(parser: argparse.ArgumentParser) -> None:
    """Who runs a detector and how it looks at an image; what is not given stays as configured."""
    parser.add_argument(
        "--engine",
        choices=("nnabla", "onnxruntime"),
        help="who runs the network; default: onnxruntime for .onnx files, else nnabla",
    )
    parser.add_argument("--test_flip", action="store_true", help="average with the mirror image")
    parser.add_argument(
        "--test_scales", metavar="S,S,...", help="scales merged by soft-NMS: 0.5,0.75,1,1.25,1.5"
    )
    parser.add_argument("--keep_res", action="store_true", help="keep each image's resolution")
    parser.add_argument("--K", type=int, metavar="N", help="detections kept per image")
    parser.add_argument("--vis_thresh", type=float, metavar="SCORE", help="lowest score that is shown")


def overrides(flags: argparse.Namespace) -> list[str]:
    """The flags as ``key=value`` overrides; --set comes last and wins."""
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


def device(flags: argparse.Namespace) -> tuple[str, int]:
    """Extension module and number of the first GPU. Who names a GPU gets a GPU or an error, never the CPU."""
    if flags.extension_module is not None:
        return flags.extension_module, max(flags.gpus or 0, 0)
    if flags.gpus is not None:
        return ("cpu", 0) if flags.gpus < 0 else ("cudnn", flags.gpus)
    installed = importlib.util.find_spec("nnabla_ext") and importlib.util.find_spec("nnabla_ext.cudnn")
    return ("cudnn" if installed else "cpu"), 0


def names_gpu(flags: argparse.Namespace) -> bool:
    """Whether the flags ask for a GPU."""
    if flags.extension_module is not None:
        return bool(flags.extension_module == "cudnn")
    return flags.gpus is not None and flags.gpus >= 0


def cpu_kernels(flags: argparse.Namespace) -> str:
    """`runtime.cpu_kernels` of the command line; a checkpoint's own is of the machine that trained it."""
    name = "runtime.cpu_kernels="
    asked = [o.removeprefix(name) for o in overrides(flags) if o.startswith(name)]
    return asked[-1] if asked else "auto"


def config_of(flags: argparse.Namespace, checkpoint: Path) -> Config | None:
    """What a bare parameter file is read with; None for checkpoint folders and exported networks, which hold their own.

    Errors: PointDetError where a configuration is needed and the flags name none, or a faulty one.
    """
    if checkpoint.is_dir() or checkpoint.suffix in (".onnx", ".nnp"):
        return None
    return load(config_path(flags), overrides(flags))


def config_path(flags: argparse.Namespace) -> Path:
    """The configuration file that the flags name."""
    if flags.train_config is not None:
        return Path(flags.train_config)
    if flags.dataset is None or flags.arch is None or flags.num_layers is None:
        raise PointDetError(
            "a bare parameter file does not say what it is; "
            "give --train-config FILE, or --dataset, --arch and --num_layers together"
        )
    name = f"{flags.arch}_{flags.num_layers}_{flags.dataset}_fp.yaml"
    path = CONFIG_FOLDER / f"{flags.detector}_{name}"
    if not path.is_file() and flags.detector == "ctdet":  # the first of them bear no detector in their names
        path = CONFIG_FOLDER / name
    if not path.is_file():
        known = ", ".join(sorted(p.name for p in CONFIG_FOLDER.glob("*.yaml"))) or "none"
        raise PointDetError(f"there is no configuration {path}; give --train-config FILE (in cfg: {known})")
    return path


def check_agreement(flags: argparse.Namespace, config: Config, source: Path) -> None:
    """PointDetError where a flag says something else than the configuration of `source`."""
    said = {
        "detector": (flags.detector, config.detector.name),
        "--dataset": (flags.dataset, config.dataset.dataset),
        "--arch": (flags.arch, config.model.arch),
        "--num_layers": (flags.num_layers, config.model.num_layers),
    }
    for flag, (given, true) in said.items():
        if given is not None and given != true:
            raise PointDetError(
                f"{flag} {given} disagrees with {source}, which holds {true}; leave the flag out"
            )
