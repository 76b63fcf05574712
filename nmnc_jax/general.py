"""The general method: subspace, readout, probe and feedback composed into one estimator."""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from nmnc_jax.checks import check_finite, check_precision
from nmnc_jax.correlate import correlations
from nmnc_jax.credit import chained_gradients, local_gradients, losses_and_error
from nmnc_jax.feedback import Feedback
from nmnc_jax.probes import Probe
from nmnc_jax.shapes import TapShape, at_least_float32, flatten, tap_shapes, unflatten
from nmnc_jax.state import NoiseCorrelationState, learn, move_subspaces
from nmnc_jax.subspace import Subspace, dimension_of, lift
from nmnc_jax.taps import Tap, no_tap, run
from nmnc_jax.types import (
    Activations,
    ApplyFn,
    Array,
    Batch,
    Estimator,
    Info,
    LossFn,
    Params,
)


def noise_correlation(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    subspace: Subspace,
    readout: Literal["output", "loss", "next"],
    probe: Probe,
    feedback: Feedback | None,
) -> Estimator:
    """The general method: perturb each tap in a subspace, correlate with what changes downstream.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``, [B, o].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``, one loss per example.
        subspace: directions of the perturbations (`isotropic`, `pca`, `random_subspace`,
            `fixed_subspace`).
        readout: "output": correlate with the outputs, averaged over examples (and, by the feedback,
            over steps) into a feedback matrix that carries the output error back. "loss": correlate
            with each example's own loss. "next": correlate with the output of the stage that
            follows the tap (the linear one, where the model marks its end by ``tap.linear``, else
            all up to the next tap) into a feedback matrix from there to the tap, and chain the
            credits; no output Jacobian is needed.
        probe: number, kind and size of the perturbations.
        feedback: `learned_feedback` or `random_feedback` for "output" and "next". For "loss" None,
            or a feedback as control variate: the change of loss that it predicts is subtracted from
            the measured one and its credit is added, so that probes measure only what it does not
            know.
            That is unbiased, as the prediction is that of earlier steps' feedback; and the feedback
            learns from the same passes.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: if readout and feedback do not fit; (from init and estimate) if the model has no
            tap, or with "next" one inside a scan; the loss is reduced, a rank exceeds a tap's
            units, an input is not finite, or finite differences meet a bfloat16 model.

    Source:
        Kang, Richards and Sabatini 2026 (arXiv 2601.02636): output readout on the neural manifold.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import Probe, learned_feedback, noise_correlation, random_subspace
        >>> def model(params, inputs, tap):
        ...     return tap("hidden", jnp.tanh(inputs @ params["in"])) @ params["out"]
        >>> params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
        >>> batch = jnp.ones((5, 3)), jnp.zeros((5, 2))
        >>> estimator = noise_correlation(
        ...     model, lambda outputs, targets: ((outputs - targets) ** 2).sum(-1),
        ...     subspace=random_subspace(2), readout="output", probe=Probe(num=1),
        ...     feedback=learned_feedback(0.9))
        >>> state = estimator.init(params, batch)
        >>> gradients, state, info = estimator.estimate(jax.random.key(0), params, batch, state)
        >>> gradients["in"].shape, info.outputs.shape
        ((3, 4), (5, 2))
    """
    if readout not in ("output", "loss", "next"):
        raise ValueError(f"readout is {readout!r}; it takes 'output', 'loss' or 'next'")
    if readout != "loss" and feedback is None:
        raise ValueError(f"feedback is None; readout {readout!r} takes a feedback")
    learns = feedback is not None and feedback.update is not None
    probes_at_all = learns or readout == "loss"

    def init(params: Params, batch: Batch) -> NoiseCorrelationState:
        shapes = _check(params, batch)
        outputs, activations = run(apply_fn, params, batch[0])
        rows = _rows(shapes, activations)
        subspaces = {name: subspace.init(name, rows[name]) for name in shapes}
        feedbacks = {}
        if feedback is not None:
            keys = jax.random.split(jax.random.key(feedback.seed), len(shapes))
            for key, name in zip(keys, shapes, strict=True):
                dimension = dimension_of(subspaces[name].basis, shapes[name].units)
                size = outputs[0].size
                if readout == "next":
                    size = math.prod(shapes[name].stage[1:])
                feedbacks[name] = feedback.init(key, size, dimension, rows[name].dtype)
        return NoiseCorrelationState(jnp.zeros((), jnp.int32), subspaces, feedbacks)

    def estimate(
        key: Array, params: Params, batch: Batch, state: NoiseCorrelationState
    ) -> tuple[Params, NoiseCorrelationState, Info]:
        inputs, targets = batch
        shapes = _check(params, batch)
        outputs, activations, pullback = local_gradients(apply_fn, params, inputs)
        losses, error = losses_and_error(loss_fn, outputs, targets)
        rows = _rows(shapes, activations)
        state = move_subspaces(subspace, state, rows)
        bases = {name: state.subspace[name].basis for name in shapes}

        error_rows = error.reshape(len(error), -1)

        def response(tap: Tap) -> dict[str, Array]:
            outputs = tap.linear(apply_fn(params, inputs, tap))
            if readout == "next":
                return {
                    name: output.reshape(len(output), -1)
                    for name, output in tap.stage_outputs.items()
                }
            parts = [outputs.reshape(len(outputs), -1)] if learns else []
            if readout == "loss":
                parts.append(loss_fn(outputs, targets)[:, None])
            dtype = at_least_float32(outputs.dtype)
            return dict.fromkeys(
                shapes, jnp.concatenate([part.astype(dtype) for part in parts], axis=1)
            )

        def known(state: NoiseCorrelationState) -> dict[str, Array]:
            """The credit that the feedback gives, in coordinates, [B, d]."""
            return {
                name: error_rows.astype(rows[name].dtype) @ feedback.coordinates
                for name, feedback in state.feedback.items()
            }

        predicted = known(state) if readout == "loss" else {}

        def correlate(name: str, z: Array, dy: Array) -> dict[str, Array]:
            found = {}
            if learns:
                learned = dy if readout == "next" else dy[:, : error_rows.shape[1]]
                found["jacobian"] = learned.T @ z / len(z)
            if readout == "loss":
                change = dy[:, -1]
                if name in predicted:
                    # The prediction is that of the mean loss; the change is each example's own.
                    change = change - len(z) * (predicted[name] * z).sum(axis=1)
                found["slope"] = change[:, None] * z
            return found

        def probe_taps() -> dict[str, dict[str, Array]]:
            return correlations(
                response,
                correlate,
                key=key,
                probe=probe,
                clean=activations,
                shapes=shapes,
                bases=bases,
                scales={name: _coordinate_size(rows[name], bases[name]) for name in shapes},
                pooled=readout != "loss",
                isolated=readout == "next",
            )

        if readout == "loss":
            found = probe_taps()
            state = learn(feedback, state, lambda: found)
            coordinates = {name: found[name]["slope"] / len(losses) for name in shapes}
            coordinates |= {name: coordinates[name] + value for name, value in predicted.items()}
        else:
            state = learn(feedback, state, probe_taps)
            coordinates = known(state) if readout == "output" else {}
        if readout == "next":
            gradients, credit = chained_gradients(
                apply_fn,
                params,
                inputs,
                shapes=shapes,
                bases=bases,
                coordinates={name: f.coordinates for name, f in state.feedback.items()},
                output_error=error,
            )
        else:
            credit = {
                name: unflatten(shape, lift(bases[name], coordinates[name])).astype(shape.dtype)
                for name, shape in shapes.items()
            }
            gradients = pullback(error, credit)
        state = state._replace(step=state.step + 1)
        return gradients, state, info_from(losses, outputs, credit)

    def _check(params: Params, batch: Batch) -> dict[str, TapShape]:
        check_finite(batch)
        shapes = tap_shapes(apply_fn, params, batch[0])
        if readout == "next":
            _check_stages(shapes)
        if probes_at_all:
            dtypes = {f"tap {name!r}": shape for name, shape in shapes.items()}
            outputs = jax.eval_shape(lambda p, x: apply_fn(p, x, no_tap), params, batch[0])
            check_precision(probe.difference, dtypes | {"the output": outputs})
        return shapes

    return Estimator(init, estimate)


def _rows(shapes: dict[str, TapShape], activations: Activations) -> dict[str, Array]:
    """Activity as matrices [B, n] of at least float32."""
    return {
        name: flatten(shape, activations[name]).astype(at_least_float32(shape.dtype))
        for name, shape in shapes.items()
    }


def _coordinate_size(rows: Array, basis: Array | None) -> Array:
    """Standard deviation of one coordinate that makes the perturbation's RMS per unit the tap's.

    The energy of a perturbation is then the same in a subspace of any dimension.
    """
    dimension = dimension_of(basis, rows.shape[1])
    rms = jnp.sqrt(jnp.mean(rows**2))
    return jnp.where(rms > 0, rms, 1) * (rows.shape[1] / dimension) ** 0.5


def _check_stages(shapes: dict[str, TapShape]) -> None:
    """Refuses taps whose stage has no output with a row per example."""
    for name, shape in shapes.items():
        if shape.batch_axis or shape.stage[:1] != (shape.batch,):
            raise ValueError(
                f"tap {name!r} feeds a stage of shape {shape.stage or '(in a scan)'}; "
                f"readout 'next' takes one row per example, {shape.batch}"
            )


def info_from(losses: Array, outputs: Array, credit: Activations) -> Info:
    """Gathers what every estimate tells."""
    norms = {name: jnp.linalg.norm(value.reshape(-1)) for name, value in credit.items()}
    return Info(losses.mean(), outputs, norms, credit)
