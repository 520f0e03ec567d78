# SPDX-License-Identifier: Apache-2.0
"""A checkpoint folder, a bare parameter file or an exported network -> a detector, ready to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pointdet.config.load import override, validate
from pointdet.config.schema import Config
from pointdet.data.augment import Colour, normalisation
from pointdet.detectors import catalogue
from pointdet.detectors.base import Detector
from pointdet.errors import PointDetError
from pointdet.inference import exported
from pointdet.inference.network import Network, build_graph
from pointdet.ops.layers import undrawn
from pointdet.runtime import Runtime
from pointdet.weights import checkpoint as checkpoints
from pointdet.weights import h5_file, published
from pointdet.weights.fit import fit_all

if TYPE_CHECKING:
    from pointdet.inference import predictor


@dataclass(frozen=True)
class Model:
    """A trained detector and what it knows of itself."""

    detector: Detector
    config: Config
    class_names: tuple[str, ...]
    runtime: Runtime
    engine: predictor.Network | None = None  # what runs in place of the detector's graph

    @property
    def colour(self) -> Colour:
        """(C, 4), the normalisation."""
        return normalisation(self.config.input, self.detector.image_channels)

    def network(self) -> predictor.Network:
        """The inference network; half precision where the config asks and the device has it."""
        half = self.config.mixed_precision.mixed_precision and not self.runtime.on_cpu
        return self.engine or Network(self.detector, self.runtime, self.colour, half)


def restore(
    path: Path,
    runtime: Runtime,
    config: Config | None = None,
    overrides: Sequence[str] = (),
    swap_heads: published.SwapHeads = "ask",
) -> Model:
    """Load `path`.

    A checkpoint folder knows its configuration and class names; `overrides` (section.key=value) change it. A bare
    .h5 file, such as those published for NNabla's CenterNet example, needs `config` with dataset.class_names. An
    exported .onnx or .nnp knows as much as a checkpoint; no graph is built of its detector, and it has no parameters.
    swap_heads: for .h5 files whose size and offset heads are exchanged (older than February 2023).
    Errors: PointDetError for whatever does not fit.
    """
    if path.suffix in (".onnx", ".nnp"):
        network = exported.load(path)
        config, class_names = network.card.configured(list(overrides), path), network.card.class_names
        return Model(catalogue.build(config, len(class_names)), config, class_names, runtime, network)
    if path.is_dir():
        state = checkpoints.read_state(path)
        config = override(validate(state["config"], f"{path}/state.json"), overrides)
        class_names = tuple(state["class_names"])
        arrays = h5_file.read(path / state["weights"])
    elif path.suffix == ".h5":
        if config is None:
            raise PointDetError(
                f"{path} is a bare parameter file and does not say what it is; add --dataset, --arch and "
                "--num_layers, or --train-config"
            )
        if config.dataset.class_names is None:
            raise PointDetError(
                f"{path} does not know its classes; list them as dataset.class_names in the config"
            )
        class_names = config.dataset.class_names
        arrays = published.unswapped(h5_file.read(path), path, swap_heads)
    else:
        raise PointDetError(
            f"{path} is neither a checkpoint folder nor an .h5 file, nor an exported .onnx or .nnp; give one of these"
        )
    return assemble(config, class_names, runtime, arrays, str(path))


def assemble(
    config: Config, class_names: tuple[str, ...], runtime: Runtime, arrays: h5_file.Arrays, source: str
) -> Model:
    """The detector of a configuration with these parameters, of either layout. Errors: PointDetError naming `source`."""
    detector = catalogue.build(config, len(class_names))
    # Any input makes the parameters of the inference network; this small one is cheap to build and is never run.
    side = config.model.granularity
    with undrawn():
        build_graph(detector, runtime, half=False, shape=(1, side, side))
    fit_all(arrays, detector.parameters(), detector.channel_last, detector.class_bias, source)
    return Model(detector, config, class_names, runtime)
