# SPDX-License-Identifier: Apache-2.0
"""What does train.recompute save, and what does it cost?

python benchmarks/memory.py: a training step of each network at 512 x 512, one image, 80 classes, on one core of the CPU,
in a process of its own, with and without recomputation: the largest resident size and the time.
"""

from __future__ import annotations

import argparse

import backbones
import machine


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="height and width [512]")
    parser.add_argument("--batch", type=int, default=1, help="images [1]")
    parser.add_argument("--width", type=float, default=1.0, help="channel factor, model.width [1]")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--networks",
        nargs="*",
        metavar="ARCH_LAYERS",
        default=["resnet_18", "dlav0_34", "hourglass_52", "hourglass_104", "hrnet_32"],
    )
    args = parser.parse_args()
    print(machine.describe())
    print(f"width {args.width:g}, {args.size} x {args.size}, {args.batch} image(s)")
    print(
        f"{'':<16}{'peak, MB':>10}{'recomputed':>12}{'saved':>8}{'step, ms':>10}{'recomputed':>12}{'longer':>8}"
    )
    for name in args.networks:
        kept, again = (
            backbones.in_process(
                name,
                "--size",
                args.size,
                "--batch",
                args.batch,
                "--width",
                args.width,
                "--repeats",
                args.repeats,
                *flag,
            )
            for flag in ((), ("--recompute",))
        )
        peaks, steps = ([row[column] for row in (kept, again)] for column in ("peak, MB", "step, ms"))
        print(
            f"{name:<16}{peaks[0]:10.0f}{peaks[1]:12.0f}{1 - peaks[1] / peaks[0]:8.0%}"
            f"{steps[0]:10.0f}{steps[1]:12.0f}{steps[1] / steps[0] - 1:8.0%}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
