"""Devices as a mesh, and where everything is on it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.config import Config, UserError
from experiments.data import Examples
from nmnc_jax.layout import TapShape
from nmnc_jax.state import NoiseCorrelationState
from nmnc_jax.types import Batch


class Devices(NamedTuple):
    """A mesh with the axis `data`, which divides examples."""

    mesh: Mesh

    @property
    def replicated(self) -> NamedSharding:
        """On every device the whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def size(self, wanted: int) -> int:
        """The largest number of examples up to `wanted` that divides among the devices."""
        axis = self.mesh.shape["data"]
        return max(wanted // axis, 1) * axis

    def rows(self, batch: int) -> np.ndarray:
        """The rows of each batch that this process reads.

        Raises:
            UserError: if the batch does not divide among the devices.
        """
        axis = self.mesh.shape["data"]
        if batch % axis:
            raise UserError(f"batch is {batch}; it takes a multiple of the {axis} devices it is on")
        places = self._divided.addressable_devices_indices_map((batch,)).values()
        return np.unique(np.concatenate([np.arange(batch)[place] for place in places if place]))

    @property
    def _divided(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec("data"))

    def place(self, batch: int, examples: Examples) -> Batch:
        """Joins what each process has read of a batch to one array over all devices."""
        rows = self.rows(batch)

        def joined(part: np.ndarray) -> jax.Array:
            def read(index: Any) -> np.ndarray:
                return part[np.searchsorted(rows, np.arange(batch)[index[0]])]

            shape = (batch, *part.shape[1:])
            return jax.make_array_from_callback(shape, self._divided, read)

        return joined(examples[0]), joined(examples[1])

    def gather(self, read: Callable[[np.ndarray], Examples], indices: np.ndarray) -> Batch:
        """A batch of chosen examples, of which each process reads its own rows."""
        return self.place(len(indices), read(indices[self.rows(len(indices))]))

    def everywhere(self, examples: Examples) -> Batch:
        """Examples that every device holds whole."""
        inputs, targets = (
            jax.make_array_from_callback(part.shape, self.replicated, part.__getitem__)
            for part in examples
        )
        return inputs, targets

    def estimator_state(self, state: Any, shapes: dict[str, TapShape], divide: bool) -> Any:
        """Shardings of an estimator's state.

        Args:
            state: its shape, as of `jax.eval_shape`.
            shapes: the model's taps.
            divide: whether the bases' and the feedback's unit axes are divided over `data`, for
                taps too wide to be held whole by every device; otherwise all is replicated.
        """
        axis = self.mesh.shape["data"]

        def over_units(units: int) -> Callable[[Any], NamedSharding]:
            def sharding(leaf: Any) -> NamedSharding:
                divided = [size == units and units % axis == 0 for size in leaf.shape]
                at = divided.index(True) if any(divided) else None
                spec = ["data" if place == at else None for place in range(leaf.ndim)]
                return NamedSharding(self.mesh, PartitionSpec(*spec))

            return sharding

        if not (divide and isinstance(state, NoiseCorrelationState)):
            return jax.tree.map(lambda leaf: self.replicated, state)
        by_tap = [
            {
                name: jax.tree.map(over_units(shapes[name].units), memory)
                for name, memory in part.items()
            }
            for part in (state.subspace, state.feedback)
        ]
        return state._replace(step=self.replicated, subspace=by_tap[0], feedback=by_tap[1])


def make_devices(config: Config) -> Devices:
    """Lays out the devices that a configuration asks for; without, all there are.

    Raises:
        UserError: if there are fewer.
    """
    there = jax.devices()
    count = config.devices or len(there)
    if count > len(there):
        raise UserError(f"devices is {count}; there are {len(there)}")
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=there[:count])
    return Devices(mesh)
