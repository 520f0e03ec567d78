# SPDX-License-Identifier: Apache-2.0
"""Write the training graph of shipped configurations to files, for torch_side.py.

python benchmarks/gpu/dump.py FOLDER: for each configuration NAME.json with the functions in order (type,
arguments, inputs, outputs, shapes) and NAME.npz with parameters, constants and one batch, in float32, NCHW.
These are the parameters and the batch of speed.py. Needs no GPU. With --device cpu the network is small, and
the script also computes the loss that torch_side.py must find.
"""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import nnabla as nn
import numpy as np
from batches import random_batch
from device import start
from models import IMAGES_ON_CPU, LARGE, large_model
from results import Results, argument_parser, chosen
from training_step import TrainingStep

from pointdet.arrays import AnyArray, Batch
from pointdet.ops import pooling
from pointdet.programs.run import run_program


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder of the files")
    parser.add_argument("--images", type=int, help="of a step (default: those of speed.py; 2 on a CPU)")
    args = parser.parse_args()
    results = Results("dump", args.results)
    runtime = start("cpu")
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, images in LARGE.items():
        if not chosen(name, args.only):
            continue
        small = args.device == "cpu"
        model = large_model(
            name, "float NCHW", runtime, args.images or (IMAGES_ON_CPU if small else images), small
        )
        with mock.patch.object(pooling, "checkpoint", lambda build, x: build(x)):  # as single functions
            step = TrainingStep(model)
        batch = random_batch(model, np.random.default_rng(0))
        step.feed(batch)
        writer = GraphWriter(step.parameters, step.inputs, batch, step.total)
        writer.write(args.folder / name)
        types = sorted({function["type"] for function in writer.functions})
        print(f"{args.folder / name}: {len(writer.functions)} functions: {', '.join(types)}")
        if small:
            step.forward(batch)
            print(f"{'':<4}loss {step.terms()['total']:.5f}")
            results.row(what=name, loss=step.terms()["total"])
    return results.finish()


class GraphWriter:
    """The functions of a training graph, and the arrays that they read.

    Arrays have the names p/PATH for parameters, i/NAME for the inputs of a batch, c/NUMBER for constants.
    Outputs of functions are v0, v1 and so on.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Variable],
        inputs: dict[str, nn.Variable],
        batch: Batch,
        root: nn.Variable,
    ) -> None:
        """The functions that compute `root`. batch: the arrays of the inputs."""
        self.functions: list[dict[str, object]] = []
        self.arrays: dict[str, AnyArray] = {}
        self._images = len(batch["image"])
        self._learned = [f"p/{name}" for name, v in parameters.items() if v.need_grad]
        self._leaves = {hash(v.data): (f"p/{name}", v.d) for name, v in parameters.items()}
        self._leaves |= {hash(v.data): (f"i/{name}", batch[name]) for name, v in inputs.items()}
        self._outputs: dict[tuple[int, int], str] = {}  # function, number of the output -> name
        root.visit(self._add)

    def write(self, path: Path) -> None:
        """Write path.json and path.npz."""
        graph = {"functions": self.functions, "learned": self._learned, "images": self._images}
        path.with_name(f"{path.name}.json").write_text(json.dumps(graph), encoding="utf-8")
        np.savez(path.with_name(f"{path.name}.npz"), **self.arrays)

    def _add(self, function: nn.function.Function) -> None:
        names = []
        for number in range(len(function.outputs)):
            names.append(f"v{len(self._outputs)}")
            self._outputs[hash(function), number] = names[-1]
        self.functions.append(
            {
                "type": function.info.type_name,
                "arguments": dict(function.info.args),
                "inputs": [self._name(variable) for variable in function.inputs],
                "outputs": names,
                "shapes": [list(variable.shape) for variable in function.outputs],
            }
        )

    def _name(self, variable: nn.Variable) -> str:
        """The name of an input. The array of a leaf is kept."""
        parent = variable.parent
        if parent is not None:
            return self._outputs[hash(parent), parent.outputs.index(variable)]
        key = hash(variable.data)
        if key not in self._leaves:
            self._leaves[key] = (f"c/{len(self._leaves)}", variable.d)
        name, array = self._leaves[key]
        dtype = np.uint8 if array.dtype == np.uint8 else np.float32
        self.arrays[name] = np.array(array, dtype)
        return name


if __name__ == "__main__":
    run_program(main)
