# SPDX-License-Identifier: Apache-2.0
"""PyTorch's side of peers.py: the graphs that it wrote, function by function.

python peers_torch.py FOLDER THREADS. Needs PyTorch and NumPy, and nothing of PointDet or NNabla.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
from torch_side import RULES, Graph

SECONDS = 3.0  # of repeated calls


def main() -> None:
    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(threads)
    RULES["Sink"] = lambda *inputs: inputs[:-2]
    training, inference = Graph(folder / "step.json", "cpu"), Graph(folder / "forward.json", "cpu")
    adam = torch.optim.Adam(training.learned, lr=0.0)

    def step() -> float:
        training.feed()
        adam.zero_grad(set_to_none=True)
        loss = training.loss(False)
        loss.backward()
        adam.step()
        return float(loss.detach())

    def forward() -> None:
        with torch.inference_mode():
            inference.feed()
            inference.loss(False)

    loss = step()
    print(json.dumps({"loss": loss, "forward": fastest(forward), "step": fastest(step)}))


def fastest(call) -> float:
    """As in peers.py."""
    call()
    begin, times = time.perf_counter(), []
    while len(times) < 2 or time.perf_counter() - begin < SECONDS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
