# SPDX-License-Identifier: Apache-2.0
"""Memory and time of a training step with and without gradient checkpointing (train.recompute).

python benchmarks/memory.py: 512 x 512, one image, 80 classes, one CPU core. Every network runs in a separate
process. Memory is the largest resident size of the process.
"""

from __future__ import annotations

import argparse

import backbones
import machine


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="input height and width (default: 512)")
    parser.add_argument("--batch", type=int, default=1, help="images per batch (default: 1)")
    parser.add_argument("--width", type=float, default=1.0, help="channel factor, model.width (default: 1)")
    parser.add_argument(
        "--repeats", type=int, default=2, help="repeats, of which the fastest counts (default: 2)"
    )
    parser.add_argument(
        "--networks",
        nargs="*",
        metavar="ARCH_LAYERS",
        default=["resnet_18", "dlav0_34", "hourglass_52", "hourglass_104", "hrnet_32"],
        help="(default: %(default)s)",
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
