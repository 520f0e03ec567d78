# SPDX-License-Identifier: Apache-2.0
"""A prediction of the images per second of a training on 1 to 256 GPUs.

python benchmarks/scaling.py: for three networks and several links. The step time of one GPU is stated, that
is computed from a published training of ResNet-50 and the number of operations, unless --step or --measure
gives it. docs/scaling.md has the formulas and the sources. --plot writes the picture of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import fields
from pathlib import Path

from cluster import chart
from cluster.buckets import StepTime, fill, queue, step_seconds
from cluster.collectives import ALGORITHMS, all_reduce
from cluster.links import CLUSTERS, Card, Cluster
from cluster.networks import Profile, profile

from pointdet.config.load import load
from pointdet.config.schema import Config
from pointdet.errors import PointDetError
from pointdet.programs.run import run_program
from pointdet.ranks.gradient_buckets import BUCKET_BYTES

CONFIGS = ("resnet_18_coco_mp", "dlav0_34_coco_mp", "ctdet_hourglass_104_coco_mp")
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SIZES = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, math.inf)  # MiB
MIB = 1 << 20
RESNET_50 = 8.18e9  # operations of a forward pass at 224 x 224: 4.09 G multiply-adds (torchvision)
PCIE = 12e9  # bytes per second of a copy from pageable memory to the GPU: half of PCIe 4, assumed
ADAM = 28  # bytes for each parameter: reads it, its gradient and two moments, writes all but the gradient


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", nargs="*", type=Path, help="configurations (default: three of cfg/)")
    parser.add_argument(
        "--bucket",
        type=float,
        default=BUCKET_BYTES / MIB,
        help="MiB of a gradient bucket (default: %(default)g)",
    )
    parser.add_argument("--half", action="store_true", help="sum the gradients in half, not in float32")
    parser.add_argument("--no-overlap", action="store_true", help="sum after backward, as ranks on CPUs do")
    parser.add_argument(
        "--algorithm", choices=("auto", *ALGORITHMS), default="auto", help="auto: NCCL's ring or tree"
    )
    parser.add_argument(
        "--step",
        type=Path,
        help="JSON of a measured step: seconds of copy, forward, backward, update; source",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure the step with benchmarks/step.py (one image, one core)",
    )
    parser.add_argument("--plot", type=Path, help="write the efficiency as an SVG file")
    args = parser.parse_args()
    root = Path(__file__).parents[1] / "cfg"
    configs = [load(path) for path in args.config or [root / f"{name}.yaml" for name in CONFIGS]]
    bytes_per_value = 2 if args.half else 4
    panels = []
    for config in configs:
        network = profile(config)
        given = read_step(args.step) if args.step else measure(config) if args.measure else None
        images = 1 if args.measure else network.images
        print(
            f"{network.name}: {network.values / 1e6:.2f} M parameters, gradients "
            f"{network.values * bytes_per_value / 1e6:.1f} MB in {'half' if args.half else 'float32'}, "
            f"{network.operations / 1e9:.1f} GFLOP, {images} image(s) per GPU, buckets of {args.bucket:g} MiB"
        )
        curves = {}
        for cluster in CLUSTERS:
            step = given or stated_step(network, cluster.card)
            print(f"\n{cluster.name}\n  one GPU {describe(step)}")
            times = {
                n: predict(network, step, cluster, n, bytes_per_value, args.bucket * MIB, args) for n in GPUS
            }
            curves[cluster.name] = {n: step.total / seconds for n, seconds in times.items()}
            print("  GPUs      " + "".join(f"{n:>9}" for n in times))
            print("  images/s  " + "".join(f"{n * images / seconds:9.0f}" for n, seconds in times.items()))
            print("  efficiency" + "".join(f"{e:9.3f}" for e in curves[cluster.name].values()))
            for n in (8, 64, 256):
                print(f"  {n:>3} GPUs: {best_sizes(network, step, cluster, n, bytes_per_value, args)}")
        panels.append((network.name, curves))
        print()
    if args.plot:
        chart.write(args.plot, panels, measured=bool(args.step or args.measure))
    return 0


def layout(gpus: int, cluster: Cluster) -> tuple[int, int]:
    """Hosts and GPUs per host: hosts are filled one after the other."""
    return (1, gpus) if gpus <= cluster.gpus else (gpus // cluster.gpus, cluster.gpus)


def predict(
    network: Profile,
    step: StepTime,
    cluster: Cluster,
    gpus: int,
    bytes_per_value: int,
    bucket: float,
    args: argparse.Namespace,
) -> float:
    """Seconds of a step on `gpus` GPUs with buckets of `bucket` bytes."""
    hosts, local = layout(gpus, cluster)
    buckets = queue(
        fill(network.gradients, bytes_per_value, bucket),
        step.backward,
        lambda size: all_reduce(size, hosts, local, cluster, args.algorithm),
        overlap=not args.no_overlap,
    )
    return step_seconds(step, buckets)


def best_sizes(
    network: Profile,
    step: StepTime,
    cluster: Cluster,
    gpus: int,
    bytes_per_value: int,
    args: argparse.Namespace,
) -> str:
    """The best bucket size, the sizes within 1 % of it, and the loss of a single bucket."""
    times = {size: predict(network, step, cluster, gpus, bytes_per_value, size * MIB, args) for size in SIZES}
    best = min(times.values())
    good = [size for size, seconds in times.items() if seconds <= 1.01 * best]
    name = {size: "all in one" if math.isinf(size) else f"{size:g}" for size in SIZES}
    loss = 100 * (times[math.inf] / best - 1)
    return (
        f"best bucket {name[min(times, key=lambda size: times[size])]} MiB, within 1 %: {name[good[0]]} to "
        f"{name[good[-1]]} MiB; one single bucket +{loss:.1f} %"
    )


def stated_step(network: Profile, card: Card) -> StepTime:
    """The step of a GPU on which nobody has measured this network."""
    compute = network.images * network.operations / RESNET_50 / card.resnet_50
    return StepTime(
        copy=network.input_bytes / PCIE,
        forward=compute / 3,
        backward=compute * 2 / 3,
        update=ADAM * network.values / card.memory,
        source=card.source,
    )


def read_step(path: Path) -> StepTime:
    """The step time of a JSON file. Errors: PointDetError if the file or a key is missing."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise PointDetError(f"{path} is not a JSON file that can be read ({error})") from None
    needed = {field.name for field in fields(StepTime)} - {"measured"}
    if not isinstance(values, dict) or set(values) != needed:
        raise PointDetError(f"{path} must have the keys {', '.join(sorted(needed))} and no others")
    return StepTime(**values, measured=True)


def measure(config: Config) -> StepTime:
    """The step of one image with the fastest CPU kernels, measured by benchmarks/step.py."""
    import step  # sets the number of threads, and imports NNabla

    config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": 1})})
    _, training, _ = step.measure(config, repeats=2)
    name = min(training, key=lambda variant: sum(training[variant].values()))
    parts = training[name]
    return StepTime(
        0.0,
        parts["build"] + parts["forward"],
        parts["backward"],
        parts["update"],
        f"benchmarks/step.py, {name}",
        True,
    )


def describe(step: StepTime) -> str:
    parts = (
        ("copy", step.copy),
        ("forward", step.forward),
        ("backward", step.backward),
        ("update", step.update),
    )
    times = ", ".join(f"{name} {1000 * seconds:.2f}" for name, seconds in parts)
    return f"({'measured' if step.measured else 'STATED, not measured'}: {step.source}), ms: {times}"


if __name__ == "__main__":
    run_program(main)
