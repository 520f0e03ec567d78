# SPDX-License-Identifier: Apache-2.0
"""Train with gradients summed by MPI and by the NCCL binding: python nccl_training.py LIBRARIES DATA FOLDER [late].

LIBRARIES: the folder of the stand-ins for NCCL and CUDA, which compute on the CPU. Writes, for every network,
FOLDER/NETWORK_WAY_RANK.npz with the parameters, and the number of NCCL groups in the last step.
"""

import ctypes
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import tiny

from pointdet.data.catalogue import read_dataset
from pointdet.programs import train
from pointdet.programs.run import run_program
from pointdet.ranks.nccl import NcclRanks
from pointdet.runtime import start
from pointdet.training.initial_parameters import fresh
from pointdet.training.trainer import Trainer

NETWORKS = {
    "resnet": ("train.accumulate=2", "train.clip_grad_norm=1"),
    "cornernet": (*tiny.NETWORKS["cornernet"], "model.width=0.06", "train.recompute=true"),
}
BUCKET_BYTES = 8192  # several buckets also in tiny networks


def run():
    libraries, data, folder = map(Path, sys.argv[1:4])
    if sys.argv[4:] == ["late"]:
        os.environ["STAND_IN_LATE"] = "1"
    nccl = ctypes.CDLL(str(libraries / "libnccl.so.2"), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(libraries / "libcudart.so.12"), ctypes.RTLD_GLOBAL)
    mpi = start(cpu_kernels="blas")
    ranks = {"mpi": mpi.ranks, "nccl": NcclRanks(mpi.ranks, mpi.context(), BUCKET_BYTES)}
    for network, overrides in NETWORKS.items():
        config = tiny.config(data, *overrides, "train.ema_decay=0.9")
        train_set = read_dataset(config.dataset, "train")
        for way, present in ranks.items():
            (folder / f"{network}_{way}").mkdir(exist_ok=True)
            model = fresh(config, train_set.class_names, replace(mpi, ranks=present))
            with train.loader(model, train_set) as batches:
                trainer = Trainer(model, batches, None, folder / f"{network}_{way}")
                trainer.run()
            arrays = {name: v.d.copy() for name, v in model.detector.parameters().items()}
            arrays |= {f"ema/{name}": array for name, array in trainer._average.values().items()}
            np.savez(
                folder / f"{network}_{way}_{mpi.ranks.rank}.npz", groups=nccl.stand_in_groups(), **arrays
            )


if __name__ == "__main__":
    run_program(run)
