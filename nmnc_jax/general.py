"""The general method: subspace, readout, probe and feedback composed into one estimator."""

from typing import Literal

import jax
import jax.numpy as jnp

from nmnc_jax.checks import check_count, check_finite, check_precision
from nmnc_jax.correlate import correlations
from nmnc_jax.credit import chained_gradients, local_gradients, losses_and_error
from nmnc_jax.feedback import Feedback
from nmnc_jax.lags import credit_by_lag, jacobian_by_lag, output_sequence, still_to_come
from nmnc_jax.probes import Probe
from nmnc_jax.shapes import (
    TapShape,
    at_least_float32,
    chained_by_default,
    check_stages,
    flatten_stage,
    matrices,
    tap_shapes,
    unflatten,
)
from nmnc_jax.state import NoiseCorrelationState, learn, move_subspaces
from nmnc_jax.subspace import Subspace, dimension_of, lift, used
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
    readout: Literal["output", "loss", "next"] | None,
    probe: Probe,
    feedback: Feedback | None,
    horizon: int | None = None,
) -> Estimator:
    """The general method: perturb each tap in a subspace, correlate with what changes downstream.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap) -> outputs``, [B, o].
        loss_fn: ``loss_fn(outputs, targets) -> [B]``, one loss per example, or [B, T] for each time
            step of outputs [B, T, o]; what is minimised is their mean.
        subspace: directions of the perturbations (`isotropic`, `pca`, `random_subspace`,
            `fixed_subspace`).
        readout: "output": correlate with the outputs, averaged over examples (and, by the feedback,
            over steps) into a feedback matrix that carries the output error back. "loss": correlate
            with each example's own loss. "next": correlate with the output of the stage that
            follows the tap (the linear one, where the model marks its end by ``tap.linear``, else
            all up to the next tap) into a feedback matrix from there to the tap, and chain the
            credits; no output Jacobian is needed. None: "next" for a model with taps inside a scan
            that marks the stage after each of its taps, otherwise "output". Inside a scan a
            perturbation has its own value at each time step, and subspaces and feedback are fitted
            over examples and time steps together; "loss" takes the change of the losses from the
            time step on, where they are [B, T].
        probe: number, kind and size of the perturbations.
        feedback: `learned_feedback` or `random_feedback` for "output" and "next". For "loss" None,
            or a feedback as control variate: the change of loss that it predicts is subtracted from
            the measured one and its credit is added, so that probes measure only what it does not
            know.
            That is unbiased, as the prediction is that of earlier steps' feedback; and the feedback
            learns from the same passes.
        horizon: for taps inside a scan, the number of lags, from that of a perturbation to the time
            step of an output, for which "output" learns a feedback matrix each; None: all T.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: if readout, feedback or horizon do not fit; (from init and estimate) if the
            model has no tap, or with "next" one without a stage; the loss is reduced, a rank
            exceeds a tap's units, an input is not finite, or finite differences meet a bfloat16
            model.

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
    if readout not in ("output", "loss", "next", None):
        raise ValueError(f"readout is {readout!r}; it takes 'output', 'loss', 'next' or None")
    if readout != "loss" and feedback is None:
        raise ValueError(f"feedback is None; readout {readout!r} takes a feedback")
    if readout == "loss" and probe.rows is not None:
        raise ValueError(f"probe.rows is {probe.rows}; readout 'loss' takes None")
    if horizon is not None:
        check_count("horizon", horizon)
        if readout == "next":
            raise ValueError(f"horizon is {horizon}; readout 'next' takes None")
    learns = feedback is not None and feedback.update is not None
    probes_at_all = learns or readout == "loss"

    def init(params: Params, batch: Batch) -> NoiseCorrelationState:
        shapes, chained = _check(params, batch)
        outputs, activations = run(apply_fn, params, batch[0])
        rows = matrices(shapes, activations)
        subspaces = {name: subspace.init(name, rows[name]) for name in shapes}
        feedbacks = {}
        if feedback is not None:
            keys = jax.random.split(jax.random.key(feedback.seed), len(shapes))
            for key, (name, shape) in zip(keys, shapes.items(), strict=True):
                dimension = dimension_of(subspaces[name].basis, shape.units)
                lags = min(horizon or shape.steps, shape.steps)
                size = lags * output_sequence(shape, outputs).shape[-1]
                if chained:
                    size = shape.stage_units
                feedbacks[name] = feedback.init(key, size, dimension, rows[name].dtype)
        return NoiseCorrelationState(jnp.zeros((), jnp.int32), subspaces, feedbacks)

    def estimate(
        key: Array, params: Params, batch: Batch, state: NoiseCorrelationState
    ) -> tuple[Params, NoiseCorrelationState, Info]:
        inputs, targets = batch
        shapes, chained = _check(params, batch)
        outputs, activations, pullback = local_gradients(apply_fn, params, inputs)
        losses, error = losses_and_error(loss_fn, outputs, targets)
        rows = matrices(shapes, activations)
        state = move_subspaces(subspace, state, rows)
        bases = {name: state.subspace[name].basis for name in shapes}

        def response(tap: Tap) -> dict[str, Array]:
            outputs = tap.linear(apply_fn(params, inputs, tap))
            if chained:
                return {
                    name: flatten_stage(shapes[name], output)
                    for name, output in tap.stage_outputs.items()
                }
            parts = [outputs.reshape(len(outputs), -1)] if learns else []
            if readout == "loss":
                parts.append(loss_fn(outputs, targets).reshape(len(outputs), -1))
            dtype = at_least_float32(outputs.dtype)
            return dict.fromkeys(
                shapes, jnp.concatenate([part.astype(dtype) for part in parts], axis=1)
            )

        def known(state: NoiseCorrelationState) -> dict[str, Array]:
            """The credit that the feedback gives, in coordinates, [B T, d]."""
            return {
                name: credit_by_lag(shapes[name], feedback.coordinates, error)
                for name, feedback in state.feedback.items()
            }

        predicted = known(state) if readout == "loss" else {}

        def correlate(name: str, z: Array, dy: Array) -> dict[str, Array]:
            found, shape = {}, shapes[name]
            if learns and chained:
                found["jacobian"] = dy.T @ z / len(z)
            elif learns:
                change = dy[:, : outputs[0].size].reshape(outputs.shape)
                size = output_sequence(shape, outputs).shape[-1]
                lags = len(state.feedback[name].total) // size
                found["jacobian"] = jacobian_by_lag(shape, lags, z, change)
            if readout == "loss":
                change = dy[:, -losses[0].size :].reshape(losses.shape) / losses.size
                nothing = jnp.zeros(len(z), z.dtype)
                foreseen = (predicted[name] * z).sum(axis=1) if name in predicted else nothing
                found["slope"] = still_to_come(shape, change, foreseen)[:, None] * z
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
                isolated=chained,
            )

        if readout == "loss":
            found = probe_taps()
            state = learn(feedback, state, lambda: found)
            coordinates = {name: found[name]["slope"] for name in shapes}
            coordinates |= {name: coordinates[name] + value for name, value in predicted.items()}
        else:
            state = learn(feedback, state, probe_taps)
            coordinates = {} if chained else known(state)
        if chained:
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

    def _check(params: Params, batch: Batch) -> tuple[dict[str, TapShape], bool]:
        """The model's taps, and whether their credit is chained."""
        check_finite(batch)
        shapes = tap_shapes(apply_fn, params, batch[0])
        if readout == "next":
            check_stages(shapes)
        if probes_at_all:
            dtypes = {f"tap {name!r}": shape for name, shape in shapes.items()}
            outputs = jax.eval_shape(lambda p, x: apply_fn(p, x, no_tap), params, batch[0])
            check_precision(probe.difference, dtypes | {"the output": outputs})
        return shapes, readout == "next" or (readout is None and chained_by_default(shapes))

    return Estimator(init, estimate)


def _coordinate_size(rows: Array, basis: Array | None) -> Array:
    """Standard deviation of one coordinate that makes the perturbation's RMS per unit the tap's.

    The energy of a perturbation is then the same in a subspace of any dimension.
    """
    units = rows.shape[1]
    dimension = used(basis, units).sum(dtype=rows.dtype)
    rms = jnp.sqrt(jnp.mean(rows**2))
    return jnp.where(rms > 0, rms, 1) * jnp.sqrt(units / dimension)


def info_from(losses: Array, outputs: Array, credit: Activations) -> Info:
    """Gathers what every estimate tells."""
    norms = {name: jnp.linalg.norm(value.reshape(-1)) for name, value in credit.items()}
    return Info(losses.mean(), outputs, norms, credit)
