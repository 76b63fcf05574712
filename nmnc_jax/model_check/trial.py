"""Passes of a model with noise, which show what depends on what."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nmnc_jax.layout import Nodes, examples_of, trace_nodes
from nmnc_jax.model_check.report import NOTHING
from nmnc_jax.taps import OUTPUTS, Model, Tap
from nmnc_jax.types import Array, Batch, LossFn, Params

EXAMPLES = 4
"""Largest number of examples of the batch that are tried."""
CUTS = 128
"""Largest number of time steps that are tried for whether the response changes before them."""
SIZE = 0.1
"""Root mean square of the noise, relative to the tap's activity."""


class Trial:
    """Runs the model on a small batch, with noise in some examples and time steps."""

    def __init__(
        self,
        model: Model,
        loss_fn: LossFn,
        params: Params,
        batch: Batch,
        nodes: Nodes,
        fed: set[str],
        readout: str,
        learns: bool,
    ):
        inputs, targets = batch
        all_nodes, all_examples = nodes, examples_of(nodes.outputs)
        # A single example is repeated, and each copy is given different noise.
        some = np.arange(EXAMPLES if all_examples == 1 else min(EXAMPLES, all_examples))
        some = some % all_examples

        def few(tree: Any) -> Any:
            # Concrete values are tried even if init is called inside a function that is traced.
            with jax.ensure_compile_time_eval():
                return jax.tree.map(
                    lambda x: jnp.asarray(x)[some] if jnp.shape(x)[:1] == (all_examples,) else x,
                    tree,
                )

        try:
            nodes = trace_nodes(model, params, few(inputs))
            jax.eval_shape(loss_fn, nodes.outputs, few(targets))
            inputs, targets = few(inputs), few(targets)
        except Exception:  # The model takes no other number of examples, so all are tried.
            nodes = all_nodes
        self._shapes = nodes.taps
        self._batch = examples_of(nodes.outputs)

        self._batch_axis = {
            node: len(nodes.scopes[node]) if readout == "next" else 0 for node in nodes.scopes
        }

        def respond(
            params: Params,
            inputs: Any,
            targets: Any,
            masks: dict[str, Array],
            drawn: dict[str, Array],
            scales: dict[str, Array],
            replay: dict[str, Any],
        ) -> tuple[Any, Any]:
            noise = {}
            for name, shape in self._shapes.items():
                mask = masks[name]
                wide = mask.reshape(*mask.shape, *(1,) * (len(shape.shape) - mask.ndim))
                noise[name] = (scales[name] * wide * drawn[name]).astype(shape.dtype)
            tap = Tap(noise, replay=replay)
            outputs = model(params, inputs, tap)
            if readout == "next":
                response: Any = {n: v for n, v in tap.arrived.items() if n in fed}
            elif readout == "loss":
                response = {"losses": loss_fn(outputs, targets)}
                response |= {"outputs": outputs} if learns else {}
            else:
                response = {"outputs": outputs}
            response = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), response)
            kept = tap.arrived if readout == "next" else {}
            return response, (kept, {name: SIZE * _rms(tap.arrived[name]) for name in masks})

        jitted = jax.jit(respond)
        random = np.random.default_rng(0)
        drawn = {
            name: random.standard_normal(shape.shape, np.float32)
            for name, shape in self._shapes.items()
        }

        def responded(
            params: Params, masks: dict[str, np.ndarray], scales: Any, replay: Any
        ) -> Any:
            with jax.ensure_compile_time_eval():
                return jitted(params, inputs, targets, masks, drawn, scales, replay)

        nothing, everything = self._masks([]), self._masks(list(self._shapes))
        ones = dict.fromkeys(self._shapes, np.float32(1))
        with jax.ensure_compile_time_eval():
            generic = _generic(params)
        # Parameters of generic size hide no dependence. If they make the response non-finite, the
        # model's parameters are used.
        clean, (arrived, scales) = responded(generic, nothing, ones, {})
        if not _finite(clean):
            generic = params
            clean, (arrived, scales) = responded(generic, nothing, ones, {})
        replay = {node: value for node, value in arrived.items() if node != OUTPUTS}
        # Noise may leave the domain of a logarithm or a root, so smaller noise is tried.
        for _ in range(4):
            if _finite(responded(generic, everything, scales, replay)[0]):
                break
            scales = {name: scale / 10 for name, scale in scales.items()}
        self._clean = jax.device_get(clean)
        self._respond = lambda masks: jax.device_get(responded(generic, masks, scales, replay)[0])

    def _masks(self, names: list[str], mask: Any = None) -> dict[str, np.ndarray]:
        """Returns masks [..., B, ...]: 1 or `mask` ([T, B] or [B]) at the named taps, else 0."""
        masks = {}
        for name, shape in self._shapes.items():
            places = np.zeros((shape.steps, shape.batch), np.float32)
            if name in names:
                places[:] = 1 if mask is None else mask
            by_time = places.reshape(*shape.times, shape.batch)
            masks[name] = np.moveaxis(by_time, -1, shape.batch_axis)
        return masks

    def _changes(self, masks: dict[str, np.ndarray]) -> Any:
        def changed(now: np.ndarray, before: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore"):
                # A value that is no longer finite has changed; one that never was is ignored.
                change = np.nan_to_num(np.abs(now - before), nan=np.inf, posinf=np.inf)
            return np.where(np.isfinite(before), change, 0)

        return jax.tree.map(changed, self._respond(masks), self._clean)

    def _by_example(self, changes: dict[str, Any]) -> np.ndarray:
        """Returns the sum of the changes of each example's response, [B]."""
        total = np.zeros(self._batch)
        for node, leaves in changes.items():
            for leaf in jax.tree.leaves(leaves):
                moved = np.moveaxis(leaf, self._batch_axis.get(node, 0), 0)
                total += moved.reshape(self._batch, -1).sum(axis=1)
        return total

    def coupling(self, names: list[str] | None = None) -> float | None:
        """Returns the largest change of other examples relative to that of examples with noise.

        Every pair of examples is separated by one of the splits into examples with and without.
        """
        if self._batch < 2:
            return None
        largest = 0.0
        for bit in range(math.ceil(math.log2(self._batch))):
            for value in (0, 1):
                noisy = (np.arange(self._batch) >> bit) & 1 == value
                masks = self._masks(names or list(self._shapes), noisy[None].astype(np.float32))
                change = self._by_example(self._changes(masks))
                own, others = change[noisy].mean(), change[~noisy].mean()
                if others > 0:
                    comparable = own > 0 and math.isfinite(others)
                    largest = max(largest, float(others / own) if comparable else math.inf)
        return largest

    def effect(self, name: str) -> float:
        """Returns the root mean square of the response's change, relative to the response."""
        changes = jax.tree.leaves(self._changes(self._masks([name])))
        sizes = jax.tree.leaves(self._clean)
        return float(_root_square(changes) / max(_root_square(sizes), 1e-30))

    def follows_time(self, name: str) -> bool:
        """Returns whether noise from a time step on leaves the earlier response unchanged."""
        shape = self._shapes[name]
        cuts = np.arange(1, shape.steps)
        if len(cuts) > CUTS:
            some = np.random.default_rng(0).choice(cuts, CUTS // 2, replace=False)
            cuts = np.unique(np.concatenate([cuts[: CUTS // 4], cuts[-CUTS // 4 :], some]))
        for start in range(0, len(cuts), self._batch):
            each = np.resize(cuts[start : start + self._batch], self._batch)
            later = np.arange(shape.steps)[:, None] >= each[None]
            changes = self._changes(self._masks([name], later.astype(np.float32)))
            for leaf in jax.tree.leaves(changes):
                by_time = leaf.reshape(self._batch, shape.steps, -1).sum(axis=2)
                early, late = by_time[~later.T].sum(), by_time[later.T].sum()
                if not math.isfinite(early) or early > NOTHING * (early + late):
                    return False
        return True


def _generic(params: Params) -> Params:
    """Replaces parameters that are so small that they hide a dependence, such as zeros."""
    random = np.random.default_rng(1)

    def filled(leaf: Any) -> Any:
        # In NumPy: compiling a program for each shape would take longer than all other checks.
        if not jnp.issubdtype(jax.typeof(leaf).dtype, jnp.floating):
            return leaf
        values = np.asarray(leaf, np.float32)
        size = max(math.prod(values.shape[:-1]), 1) ** -0.5 if values.ndim > 1 else 0.5
        rms = _root_square([values]) / max(values.size, 1) ** 0.5
        if rms >= 0.1 * size or values.size == 0:
            return leaf
        if rms == 0:
            return (random.standard_normal(values.shape) * size).astype(leaf.dtype)
        return (values * (size / rms)).astype(leaf.dtype)

    return jax.tree.map(filled, params)


def _finite(tree: Any) -> bool:
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))


def _rms(value: Array) -> Array:
    rms = jnp.sqrt(jnp.mean(value.astype(jnp.float32) ** 2))
    return jnp.where(rms > 0, rms, 1)


def _root_square(leaves: list[np.ndarray]) -> float:
    return math.sqrt(sum(float((leaf.astype(np.float64) ** 2).sum()) for leaf in leaves))
