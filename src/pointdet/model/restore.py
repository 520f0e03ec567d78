# SPDX-License-Identifier: Apache-2.0
"""Load a trained detector from a checkpoint folder, a parameter file (.h5) or an exported network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pointdet.arrays import Arrays
from pointdet.config.load import override
from pointdet.config.schema import Config
from pointdet.data.augment import Colour, normalisation
from pointdet.detectors import catalogue
from pointdet.detectors.common.base import Detector
from pointdet.errors import PointDetError
from pointdet.model import exported
from pointdet.model.network import Network, NNablaNetwork, build_graph
from pointdet.ops.layers import parameters_without_values
from pointdet.runtime import Runtime
from pointdet.weights import checkpoint as checkpoints
from pointdet.weights import h5_file, kind, published
from pointdet.weights.fit import fit_all

NETWORKS: tuple[kind.Kind, ...] = ("checkpoint", "h5", "onnx", "nnp")  # what `restore` takes


@dataclass(frozen=True)
class Model:
    """A trained detector with its configuration and class names."""

    detector: Detector
    config: Config
    class_names: tuple[str, ...]
    runtime: Runtime
    engine: Network | None = None  # an exported network, which runs instead of the detector's graph

    @property
    def colour(self) -> Colour:
        """(C, 4), the normalisation."""
        return normalisation(self.config.input, self.detector.image_channels)

    def network(self) -> Network:
        """The inference network, in half precision on a GPU if mixed precision is configured."""
        half = self.config.mixed_precision.mixed_precision and not self.runtime.on_cpu
        return self.engine or NNablaNetwork(self.detector, self.runtime, self.colour, half)


def restore(
    path: Path,
    runtime: Runtime,
    config: Config | None = None,
    overrides: Sequence[str] = (),
    swap_heads: published.SwapHeads = "ask",
) -> Model:
    """Load the detector of a checkpoint folder or of an .h5, .onnx or .nnp file.

    A checkpoint folder and an exported .onnx or .nnp file contain their configuration and class names. An .h5
    file, such as those published for NNabla's CenterNet example, contains parameters only. For an exported
    file no graph of the detector is built, so the detector has no parameters.

    Args:
        config: the configuration of an .h5 file; it must contain dataset.class_names.
        overrides: changes to the configuration of a checkpoint or exported file, section.key=value.
        swap_heads: whether to exchange the size and offset heads of an .h5 file: "yes", "no", or "ask" to
            raise an error if the file seems to need it. Files from before February 2023 have them exchanged.
    Errors: PointDetError for a file that cannot be loaded or does not fit the configuration.
    """
    kind.check(path, *NETWORKS)
    if path.suffix in (".onnx", ".nnp"):
        network = exported.load(path)
        config, class_names = network.metadata.configured(list(overrides), path), network.metadata.class_names
        return Model(catalogue.build(config, len(class_names)), config, class_names, runtime, network)
    if path.is_dir():
        state = checkpoints.read_state(path, checkpoints.MODEL)
        config = override(checkpoints.config(path, state), overrides)
        class_names = tuple(state["class_names"])
        arrays = h5_file.read(path / state["weights"])
    else:
        if config is None:
            raise PointDetError(
                f"{path} contains parameters only and no configuration; add --dataset, --arch and "
                "--num_layers, or --train-config"
            )
        if config.dataset.class_names is None:
            raise PointDetError(
                f"{path} contains no class names; list them as dataset.class_names in the config"
            )
        class_names = config.dataset.class_names
        arrays = published.unswapped(h5_file.read(path), path, swap_heads)
    return assemble(config, class_names, runtime, arrays, str(path))


def assemble(
    config: Config, class_names: tuple[str, ...], runtime: Runtime, arrays: Arrays, source: str
) -> Model:
    """Build the detector of a configuration with the parameters `arrays`, in NCHW or NHWC layout.

    Errors: PointDetError, which names `source`, if the parameters do not fit.
    """
    detector = catalogue.build(config, len(class_names))
    # The graph creates the parameters and is never run. The smallest input is the cheapest to build.
    side = config.model.granularity
    with parameters_without_values():
        build_graph(detector, runtime, half=False, shape=(1, side, side))
    fit_all(arrays, detector.parameters(), detector.channel_last, detector.class_bias, source)
    return Model(detector, config, class_names, runtime)
