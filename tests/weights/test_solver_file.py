# SPDX-License-Identifier: Apache-2.0
"""The file of a solver's state has the layout of NNabla's own."""

import h5py
import nnabla as nn
import nnabla.solvers as S
import numpy as np

from pointdet.weights import h5_file


def test_the_file_is_that_of_nnabla(tmp_path):
    solver, rng = S.Adam(), np.random.default_rng(0)
    parameters = {
        name: nn.Variable(shape, need_grad=True) for name, shape in {"conv/W": (3, 2), "b": (4,)}.items()
    }
    solver.set_parameters(parameters)
    for _ in range(2):
        for variable in parameters.values():
            variable.g = rng.standard_normal(variable.shape)
        solver.update()
    solver.save_states(str(tmp_path / "theirs.h5"))
    states = {
        name: (state.t, {kind: moment.d for kind, moment in state.pstate.items()})
        for name, state in solver.get_states().items()
    }
    h5_file.write_solver(tmp_path / "ours.h5", states)
    ours, theirs = (content(tmp_path / name) for name in ("ours.h5", "theirs.h5"))
    assert ours == theirs and len(ours) > 6


def content(path):
    """The attributes of every group and dataset of an .h5 file, and the values."""
    found = {}

    def visit(name, item):
        found[name] = dict(item.attrs), item[...].tolist() if isinstance(item, h5py.Dataset) else None

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found
