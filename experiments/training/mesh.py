"""The mesh of devices, and the shardings of arrays on it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.configuration import Config
from experiments.data import Examples
from experiments.errors import UserError
from nmnc_jax.layout import TapShape
from nmnc_jax.state import NoiseCorrelationState
from nmnc_jax.subspace import Subspace, SubspaceState
from nmnc_jax.types import Array, Batch, Due, Estimator


class Devices(NamedTuple):
    """A mesh with the axis `data`, which divides examples."""

    mesh: Mesh

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of arrays that every device holds completely."""
        return NamedSharding(self.mesh, PartitionSpec())

    def size(self, wanted: int) -> int:
        """Returns the largest multiple of the number of devices up to `wanted`, or that number."""
        axis = self.mesh.shape["data"]
        return max(wanted // axis, 1) * axis

    def rows(self, batch: int) -> np.ndarray:
        """Returns the rows of each batch that this process reads.

        Raises:
            UserError: if the batch does not divide among the devices.
        """
        axis = self.mesh.shape["data"]
        if batch % axis:
            raise UserError(f"batch is {batch}; it takes a multiple of the {axis} devices")
        places = self._divided.addressable_devices_indices_map((batch,)).values()
        return np.unique(np.concatenate([np.arange(batch)[place] for place in places if place]))

    @property
    def seldom(self) -> dict[str, float] | None:
        """Options for the compiler of a program that runs seldom.

        A TPU's compiler spends most of its time on the speed of the program.
        """
        tpu = self.mesh.devices.flat[0].platform == "tpu"
        return {"exec_time_optimization_effort": -1.0} if tpu else None

    @property
    def _divided(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec("data"))

    def shapes(self, examples: Examples, count: int) -> Batch:
        """Returns the shapes of a batch of such examples, for a program that is only compiled."""
        where = self.of_batch(count)
        inputs, targets = (
            jax.ShapeDtypeStruct((count, *part.shape[1:]), part.dtype, sharding=where)
            for part in examples
        )
        return inputs, targets

    def place(self, batch: int, examples: Examples) -> Batch:
        """Joins the parts of a batch that each process has read in arrays over all devices."""
        return self._joined(self._divided, batch, examples)

    def _joined(self, where: NamedSharding, count: int, examples: Examples) -> Batch:
        inputs, targets = (
            jax.make_array_from_process_local_data(where, part, (count, *part.shape[1:]))
            for part in examples
        )
        return inputs, targets

    def gather(self, read: Callable[[np.ndarray], Examples], indices: np.ndarray) -> Batch:
        """Returns a batch of the chosen examples, of which each process reads its rows."""
        return self.place(len(indices), read(indices[self.rows(len(indices))]))

    def of_batch(self, count: int) -> NamedSharding:
        """Returns the sharding of a batch: divided if its size allows, else replicated."""
        return self.replicated if count % self.mesh.shape["data"] else self._divided

    def any_size(self, examples: Examples) -> Batch:
        """Returns a batch of any size from examples that every process has read."""
        count = len(examples[1])
        return self._joined(self.of_batch(count), count, examples)

    def estimator_state(self, state: Any, shapes: dict[str, TapShape], divide: bool) -> Any:
        """Returns the shardings of an estimator's state.

        Args:
            state: the shapes of the state, as from `jax.eval_shape`.
            shapes: the model's taps.
            divide: whether the unit axes of bases and feedback are divided over `data`, for taps
                that are too wide for one device; otherwise everything is replicated.
        """
        if not (divide and isinstance(state, NoiseCorrelationState)):
            return jax.tree.map(lambda leaf: self.replicated, state)

        def over_units(name: str) -> Callable[[Any], NamedSharding]:
            # A mirror has the form of the weights of its layer, and is replicated like them.
            if name not in shapes:
                return lambda leaf: self.replicated
            return lambda leaf: self.by_units(leaf, shapes[name].units)

        by_tap = [
            {name: jax.tree.map(over_units(name), memory) for name, memory in part.items()}
            for part in (state.subspace, state.feedback)
        ]
        return state._replace(step=self.replicated, subspace=by_tap[0], feedback=by_tap[1])

    def by_units(self, leaf: Any, units: int) -> NamedSharding:
        """Returns the sharding that divides an array's axis of units over the devices.

        An array without such an axis, or whose units do not divide evenly, is replicated.
        """
        axis = self.mesh.shape["data"]
        divided = [size == units and units % axis == 0 for size in leaf.shape]
        at = divided.index(True) if any(divided) else None
        spec = ["data" if place == at else None for place in range(leaf.ndim)]
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def divide_updates(self, subspace: Subspace) -> Subspace:
        """Divides the work on a subspace over the devices, by units.

        The activity, which is divided by examples, is exchanged once between devices. In addition,
        Gram matrices are summed, and the new basis is gathered if every device holds all of it.
        """
        if self.mesh.size == 1:
            return subspace

        def divided(tree: Any, units: int) -> Any:
            return jax.tree.map(
                lambda leaf: jax.lax.with_sharding_constraint(leaf, self.by_units(leaf, units)),
                tree,
            )

        def exchanged(activity: Array) -> Array:
            count, units = activity.shape
            if count % self.mesh.size == 0:
                # Otherwise the compiler may divide the model's passes by units too.
                activity = jax.lax.with_sharding_constraint(activity, self.of_batch(count))
            return divided(activity, units)

        def init(name: str, activity: Array, key: Array | None = None) -> SubspaceState:
            units = activity.shape[1]
            return divided(subspace.init(name, exchanged(activity), key), units)

        def update(state: SubspaceState, activity: Array) -> SubspaceState:
            units = activity.shape[1]
            assert subspace.update is not None
            return divided(subspace.update(divided(state, units), exchanged(activity)), units)

        return subspace._replace(init=init, update=subspace.update and update)


def make_devices(config: Config, available: Sequence[Any] | None = None) -> Devices:
    """Makes a mesh of the number of devices that a configuration names; 0 uses all.

    Args:
        config: the configuration.
        available: the devices to choose from; None for those of this host.

    Raises:
        UserError: if there are fewer devices.
    """
    available = available or jax.devices()
    count = config.run.devices or len(available)
    if count > len(available):
        remedy = ""
        if available[0].platform == "cpu":
            flag = f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
            remedy = f"; the environment variable {flag} divides the CPU"
        raise UserError(f"devices is {count}; there are {len(available)}{remedy}")
    devices = available[:count]
    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    return Devices(mesh)


def evenly_spaced(batch: Batch, most: int) -> Batch:
    """Returns a batch, or some of its examples if it has more than `most`.

    Which examples does not depend on the number of devices. Their distance is a power of two, so
    that each device chooses from its own if the number of examples divides by the devices.

    Example:
        >>> import jax.numpy as jnp
        >>> from experiments.training.mesh import evenly_spaced
        >>> [part.tolist() for part in evenly_spaced((jnp.arange(8), jnp.arange(8)), 3)]
        [[0, 4], [0, 4]]
    """
    distance = 1
    while -(-len(batch[1]) // distance) > most:
        distance *= 2
    inputs, targets = (part[::distance] for part in batch)
    return inputs, targets


def divide_probes(estimator: Estimator, mesh: Mesh, axis: str = "probe") -> Estimator:
    """Divides the probes of an estimator over an axis of a mesh.

    Args:
        estimator: the estimator, whose number of probes is that of one device of the axis.
        mesh: the mesh with that axis; the compiler handles the other axes.
        axis: name of the axis.

    Returns:
        An estimator whose gradients and state are the means over the axis; each device has a
        different key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from experiments.training.mesh import divide_probes
        >>> from nmnc_jax import vnc
        >>> mesh = jax.make_mesh((1,), ("probe",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> model = lambda params, inputs, tap: tap("hidden", inputs @ params)
        >>> estimator = divide_probes(vnc(model, lambda y, t: ((y - t) ** 2).sum(-1)), mesh)
        >>> batch = jnp.ones((4, 3)), jnp.zeros((4, 2))
        >>> state = estimator.init(jnp.ones((3, 2)), batch)
        >>> key = jax.random.key(0)
        >>> jax.jit(estimator.estimate)(key, jnp.ones((3, 2)), batch, state)[0].shape
        (3, 2)
    """

    def mean(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jax.lax.pmean(leaf, axis)
        # A counter is the same on all devices; a flag is set if it is set on all devices.
        return jax.lax.pmin(leaf.astype(jnp.int32), axis).astype(leaf.dtype)

    def estimate(
        key: Any, params: Any, batch: Any, state: Any, *, due: Due | None = None, **kwargs: Any
    ) -> Any:
        def own(key: Any, params: Any, batch: Any, state: Any, kwargs: Any) -> Any:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
            found = estimator.estimate(key, params, batch, state, due=due, **kwargs)
            return jax.tree.map(mean, found)

        whole = PartitionSpec()
        divided = jax.shard_map(
            own, mesh=mesh, in_specs=(whole,) * 5, out_specs=whole, axis_names={axis}
        )
        return divided(key, params, batch, state, kwargs)

    return Estimator(estimator.init, estimate, estimator.due)
