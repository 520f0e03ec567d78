# SPDX-License-Identifier: Apache-2.0
"""Program of every rank in test_ranks.py: python together.py CONFIG FOLDER. Writes FOLDER/rank_R_of_N.npz."""

import sys
from pathlib import Path

import nnabla as nn
import numpy as np
import tiny

from pointdet.config import load
from pointdet.data.catalogue import read_dataset
from pointdet.evaluation.run import evaluate
from pointdet.inference.predictor import Predictor
from pointdet.programs import train
from pointdet.programs.run import run_program
from pointdet.runtime import start
from pointdet.training.initial_parameters import fresh
from pointdet.training.trainer import Trainer
from pointdet.training.validation_loss import ValidationLoss

GLOBAL_BATCH = 4  # images of one step on all ranks


def model_of(config, class_names, runtime, *overrides):
    batch_size = f"train.batch_size={GLOBAL_BATCH // runtime.ranks.size}"
    model = fresh(load.override(config, [batch_size, *overrides]), class_names, runtime)
    for name, variable in model.detector.parameters().items():
        if name.endswith("deconv/W"):  # otherwise the output hardly depends on the image
            variable.d = 50 * variable.d
    return model


def gradients(model, train_set):
    """Gradients of the first global batch, summed over the ranks.

    The network uses running statistics, so that an image does not depend on the other images of its batch.
    """
    with train.loader(model, train_set) as batches:
        part = {name: array.copy() for name, array in next(batches.epoch(0)).items()}
    ranks, loss = model.runtime.ranks, model.detector.loss
    graph = tiny.graph_of_running_statistics(model)
    trainable = model.detector.parameters(trainable_only=True)
    for variable in trainable.values():
        variable.grad.zero()
    own = loss.count(part)
    graph.forward(part, ranks.sum(own))
    graph.backward(1.0)
    ranks.all_reduce([variable.grad for variable in trainable.values()])
    total = ranks.sum(np.array([graph.values()["total"]]))
    return {"total": total, "own_count": own, **{name: v.g.copy() for name, v in trainable.items()}}


def images(model, train_set):
    """The images of this rank in two epochs, and their weights."""
    found, weights = [], []
    with train.loader(model, train_set) as batches:
        for epoch in (0, 1):
            for batch in batches.epoch(epoch):
                found.append(batch["image"].copy())
                weights.append(batch["weight"].copy())
    return np.stack(found), np.stack(weights)


def run():
    config, folder = load.load(sys.argv[1]), Path(sys.argv[2])
    runtime = start()
    ranks = runtime.ranks
    train_set = read_dataset(config.dataset, "train")
    val_set = read_dataset(config.dataset, "val", train_set.class_names)
    names = train_set.class_names

    results = {f"gradient/{k}": v for k, v in gradients(model_of(config, names, runtime), train_set).items()}

    no_augmentation = ["augment.flip=0", "augment.crop=false", "augment.shift=0", "augment.scale=0"]
    results["images"], results["weights"] = images(
        model_of(config, names, runtime, *no_augmentation), train_set
    )

    found = evaluate(Predictor.of(model_of(config, names, runtime)), val_set, ranks)
    results["lengths"] = np.array([len(detections) for detections in found])
    for name in ("boxes", "labels", "scores"):
        results[name] = np.concatenate([getattr(detections, name) for detections in found])

    loss = ValidationLoss(model_of(config, names, runtime), val_set).measure(lambda: False)
    results["validation_loss"] = np.array(list(loss.values()))

    if ranks.size > 1:
        nn.clear_parameters()
        trained = model_of(config, names, runtime, "train.ema_decay=0.5", "train.num_epochs=1")
        with train.loader(trained, train_set) as batches:
            run_folder = folder / "run"
            run_folder.mkdir(exist_ok=True)
            Trainer(trained, batches, val_set, run_folder).run()
        for name, variable in trained.detector.parameters().items():
            results[f"trained/{name}"] = variable.d.copy()
    np.savez(folder / f"rank_{ranks.rank}_of_{ranks.size}.npz", **results)


if __name__ == "__main__":
    run_program(run)
