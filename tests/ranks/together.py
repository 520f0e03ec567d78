# SPDX-License-Identifier: Apache-2.0
"""What every rank does in test_ranks.py: python together.py CONFIG FOLDER; writes FOLDER/rank_R_of_N.npz."""

import sys
from pathlib import Path

import nnabla as nn
import numpy as np

import main
from pointdet.config import load
from pointdet.data.catalogue import read_dataset
from pointdet.evaluation.run import evaluate
from pointdet.inference.predictor import Predictor
from pointdet.runtime import door, start
from pointdet.training.graph import TrainingGraph
from pointdet.training.start import fresh
from pointdet.training.trainer import Trainer

TOGETHER = 4  # images of a joined batch


def model_of(config, class_names, runtime, *overrides):
    batch_size = f"train.batch_size={TOGETHER // runtime.ranks.size}"
    model = fresh(load.override(config, [batch_size, *overrides]), class_names, runtime)
    for name, variable in model.detector.parameters().items():
        if name.endswith("deconv/W"):  # else nothing but batch statistics lets the image through
            variable.d = 50 * variable.d
    return model


def gradients(model, train_set):
    """Summed over the ranks, of the first joined batch; running statistics, so that images stay apart."""
    with main.loader(model, train_set) as batches:
        part = {name: array.copy() for name, array in next(batches.epoch(0)).items()}
    ranks, loss = model.runtime.ranks, model.detector.loss
    graph = TrainingGraph(model.config, model.detector, model.runtime, training=False)
    learnt = model.detector.parameters(learnt_only=True)
    for variable in learnt.values():
        variable.grad.zero()
    own = loss.count(part)
    terms = graph.forward(part, ranks.sum(own))
    graph.backward(1.0, None)
    ranks.all_reduce([variable.grad for variable in learnt.values()])
    total = ranks.sum(np.array([terms["total"]]))
    return {"total": total, "own_count": own, **{name: v.g.copy() for name, v in learnt.items()}}


def images(model, train_set):
    """The images of two epochs as this rank sees them, with their weights; no augmentation."""
    found, weights = [], []
    with main.loader(model, train_set) as batches:
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

    still = ["augment.flip=0", "augment.crop=false", "augment.shift=0", "augment.scale=0"]
    results["images"], results["weights"] = images(model_of(config, names, runtime, *still), train_set)

    found = evaluate(Predictor.of(model_of(config, names, runtime)), val_set, ranks)
    results["lengths"] = np.array([len(detections) for detections in found])
    for name in ("boxes", "labels", "scores"):
        results[name] = np.concatenate([getattr(detections, name) for detections in found])

    if ranks.size > 1:
        nn.clear_parameters()
        trained = model_of(config, names, runtime, "train.ema_decay=0.5", "train.num_epochs=1")
        with main.loader(trained, train_set) as batches:
            run_folder = folder / "run"
            run_folder.mkdir(exist_ok=True)
            Trainer(trained, batches, val_set, run_folder).run()
        for name, variable in trained.detector.parameters().items():
            results[f"trained/{name}"] = variable.d.copy()
    np.savez(folder / f"rank_{ranks.rank}_of_{ranks.size}.npz", **results)


if __name__ == "__main__":
    door(run)
