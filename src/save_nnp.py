# SPDX-License-Identifier: Apache-2.0
"""Export for deployment: python src/save_nnp.py ctdet --checkpoint runs/x/checkpoints/best [--output x.nnp].

The saved network takes a BGR uint8 image; before the program ends, the file is loaded again with NNabla's own loader
and must give the same maps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pointdet.config import flags
from pointdet.errors import PointDetError


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Save the network with its normalisation as .nnp.")
    flags.add_model_flags(parser)
    parser.add_argument("--output", type=Path, help="the file to write [ARCH_LAYERS.nnp in --save_dir]")
    parser.add_argument("--input_h", type=int, help="height of the input [the config's]")
    parser.add_argument("--input_w", type=int, help="width of the input [the config's]")
    return parser.parse_args()


def main() -> int:
    args = parse()
    import numpy as np

    from pointdet.export.nnp import NnpNetwork, write
    from pointdet.inference.from_flags import restore_model, start_runtime

    model = restore_model(args, start_runtime(args), args.checkpoint)
    height, width = model.config.input.height, model.config.input.width
    path = args.output or args.save_dir / f"{model.config.model.arch}_{model.config.model.num_layers}.nnp"
    write(model, path, height, width)
    image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    expected, found = model.network()(image), NnpNetwork(path)(image)
    difference = max(float(np.abs(expected[name] - found[name]).max()) for name in expected)
    print(f"{path}: image {image.shape} uint8 BGR -> {', '.join(f'{n} {a.shape}' for n, a in found.items())}")
    print(f"largest difference after loading it again: {difference:.1e}")
    if difference > 1e-4:
        raise PointDetError(f"{path} gives other numbers than the network it was made from; do not use it")
    return 0


if __name__ == "__main__":
    from pointdet.runtime import door

    door(main)
