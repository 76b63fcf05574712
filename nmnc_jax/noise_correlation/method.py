"""The estimator of the general method: its init, and its steps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from nmnc_jax.checks import check_batch, check_key, check_names, settings_of
from nmnc_jax.credit import (
    check_first_losses,
    gradients_and_credit,
    info_from,
    losses_and_error,
    pass_for,
    reading_of,
)
from nmnc_jax.feedback import Feedback
from nmnc_jax.layout import matrices, read_weights_and_input, trace_nodes
from nmnc_jax.linear_stages import read_weights, weights_of_stages
from nmnc_jax.model_check import Causal, examine
from nmnc_jax.noise_correlation.composition import composed
from nmnc_jax.noise_correlation.step import Step
from nmnc_jax.probes import DEFAULT, Probe, check_rows
from nmnc_jax.readouts import READOUTS
from nmnc_jax.schedule import all_finite, either, kept_if, when
from nmnc_jax.sharding import on_any_mesh
from nmnc_jax.state import (
    NoiseCorrelationState,
    check_state,
    first_state,
    follow_weights,
    lay_out,
)
from nmnc_jax.subspace import Subspace
from nmnc_jax.taps import OUTPUTS, Model, Tap
from nmnc_jax.types import ApplyFn, Array, Batch, Due, Estimator, Info, LossFn, Params


def noise_correlation(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    subspace: Subspace,
    readout: str | tuple[str, ...] | None,
    probe: Probe = DEFAULT,
    feedback: Feedback | None,
    horizon: int | None = None,
    has_aux: bool = False,
    check: bool = True,
    causal: Causal = None,
) -> Estimator:
    """The general method: perturbs taps in subspaces and correlates with the changes downstream.

    Args:
        apply_fn: ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, where the outputs are
            [B, ...] or a pytree of such arrays.
        loss_fn: ``loss_fn(outputs, targets) -> [B]``, one loss per example, or [B, T] for each time
            step of outputs [B, T, o]. Their mean is minimised.
        subspace: directions of the perturbations (`isotropic`, `pca`, `random_subspace`,
            `fixed_subspace`).
        readout: what perturbations are correlated with.

            * "output": the outputs. The correlation is averaged over examples (and, by the
              feedback, over steps) into a feedback matrix that carries the output error back.
            * "loss": the loss of each example.
            * "next": the nodes that the tap feeds directly (linear stages that the model marks by
              ``tap.linear``, other taps, or the outputs). The feedback matrix leads from these
              nodes to the tap, and credit is chained; no output Jacobian is needed.
            * "mirror": the linear stages that the model marks by ``tap.linear(apply, weights, h)``.
              The feedback has the form of their weights; everything else is differentiated exactly.
            * None: "next" for a model that marks stages inside a scan, otherwise "output".
            * A tuple: the first of its readouts for which the model has marks.

            Inside a scan perturbations differ between time steps, and subspaces and feedback are
            fitted over examples and time steps together. If losses are [B, T] and follow the tap's
            time, "loss" uses only their change from the perturbed time step on.
        probe: number, kind and size of the perturbations. The defaults are 8 Gaussian probes, one
            tap at a time, with central differences.
        feedback: `learned_feedback` or `random_feedback` for "output", "next" and "mirror"; for
            "mirror" also `sign_symmetric_feedback` or `kolen_pollack_feedback`. For "loss" None, or
            a feedback as control variate: the change of loss that it predicts is subtracted from
            the measured change and its credit is added, so that probes measure only the remainder.
            The estimate stays unbiased, because the prediction uses the feedback of earlier steps.
            The feedback learns from the same passes.
        horizon: for taps inside a scan, the number of lags between a perturbation and the time step
            of an output for which "output" learns a feedback matrix each; None for all T.
        has_aux: whether `apply_fn` returns ``(outputs, aux)``; ``info.aux`` comes from the clean
            pass.
        check: whether `init` checks the model on a few examples (`check_model`).
        causal: whether outputs (or losses) with the time axes of a tap follow its time, so that
            noise changes nothing earlier; one bool for all taps or a dict by tap name. If None, it
            is tried at init, which must then be called on values and not inside ``jax.jit``.

    Returns:
        An `Estimator` with a `NoiseCorrelationState`.

    Raises:
        ValueError: if readout, feedback and horizon do not fit together; (from init) if
            `check_model` raises, if a loss is not finite, or if bases and feedback do not fit into
            memory; (from init and estimate) if the loss is reduced, if a rank exceeds a tap's
            units, if a bfloat16 model is probed by finite differences, or if the state belongs to
            another method or model.

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
    probe = Probe.over(probe, DEFAULT)
    parts = composed(
        subspace=subspace,
        readout=readout,
        probe=probe,
        feedback=feedback,
        horizon=horizon,
        has_aux=has_aux,
    )

    def init(
        params: Params, batch: Batch, *, key: Array | None = None, **kwargs: Any
    ) -> NoiseCorrelationState:
        model = Model(apply_fn, has_aux, kwargs)
        inputs, _ = check_batch(batch)
        nodes = trace_nodes(model, params, inputs)
        parts.check_passes(nodes, lambda tap: model(params, inputs, tap))
        tap = Tap(reader=read_weights_and_input)
        outputs = model(params, inputs, tap)
        if check:
            check_first_losses(loss_fn, outputs, batch)
        report = examine(
            model,
            loss_fn,
            params,
            batch,
            nodes,
            readout=readout,
            trial=check,
            causal=causal,
            learns=parts.learns,
        )
        settings = settings_of(kwargs) if check else ()
        known = dataclasses.replace(parts.own, settings=settings)
        nodes = READOUTS[report.readout].places(nodes, [found.name for found in report.taps])
        subspace.check(nodes.taps)
        check_names("num", probe.num, nodes.taps)
        layout = lay_out(nodes, report, subspace, feedback, known)
        weights = weights_of_stages(tap.read, nodes, layout)
        activations = tap.activations | {name: read[1] for name, read in tap.read.items()}
        return first_state(layout, nodes, activations, weights, subspace, feedback, key)

    def estimate(
        key: Array,
        params: Params,
        batch: Batch,
        state: NoiseCorrelationState,
        *,
        due: Due | None = None,
        **kwargs: Any,
    ) -> tuple[Params, NoiseCorrelationState, Info]:
        check_key(key)
        model = Model(apply_fn, has_aux, kwargs)
        inputs, targets = check_batch(batch)
        nodes = trace_nodes(model, params, inputs)
        parts.check_passes(nodes, lambda tap: model(params, inputs, tap))
        nodes = check_state(state, nodes, subspace, parts.own, parts.readouts)
        if check and state.layout.settings != settings_of(kwargs):
            raise ValueError(
                f"the model was tried at init with {dict(state.layout.settings)}, and is called "
                f"with {dict(settings_of(kwargs))}; it takes the same keyword arguments at init "
                "and in each step, or check=False. A flag that jax.jit traces is not among them: "
                "name it in static_argnames"
            )
        if probe.rows is not None:
            check_rows(probe.rows, kwargs, nodes)
        chosen = READOUTS[state.layout.readout]

        before = state
        if parts.follows:
            assert feedback is not None
            key, follow_key = jax.random.split(key)
            weights = read_weights(model, params, inputs, nodes, state.layout)
            state = follow_weights(feedback, state, weights, follow_key)
        before_pass = reading_of(state, nodes, loss_fn, targets, learns=parts.learns)
        clean = pass_for(chosen, before_pass, model, params, inputs)
        losses, error = losses_and_error(loss_fn, clean.outputs, targets)
        rows = matrices(nodes.taps, clean.activations | clean.read)
        now = Step(
            parts, chosen, loss_fn, model, params, inputs, targets, nodes, clean, error, rows
        )

        def keep(new: NoiseCorrelationState, old: NoiseCorrelationState, also: Any = ()) -> Any:
            finite = usable & all_finite((new, also))
            return kept_if(finite, new, old), finite

        # The key is part of the loop's carry, so that no turn uses it again.
        def probed(memory: tuple[NoiseCorrelationState, Array]) -> Any:
            old, key = memory
            use, key = jax.random.split(key)
            return now.learn(old, now.measure(use, old)), key

        def change(memory: tuple[NoiseCorrelationState, Array, Array]) -> Any:
            old, _, key = memory
            moved = when(move_due, now.move, old)
            new, key = when(probe_due, probed, (moved, key))
            return *keep(new, old), key

        usable = all_finite((losses, error))
        if parts.follows:
            state, usable = keep(state, before)
        move_due, probe_due = parts.scheduled(state.step, due)
        found = None
        if chosen.every_step:
            # Predictions use the feedback before this step's probes; otherwise they are biased.
            moved = when(move_due, now.move, state)
            found = now.measure(key, moved)
            reading = now.reading(moved)
            new = now.learn(moved, found) if parts.learns else moved
            state, finite = keep(new, state, found)
        else:
            memory = state, usable, key
            state, finite, _ = when(either(move_due, probe_due), change, memory)
            reading = now.reading(state)
        coordinates, last = None, clean
        if chosen.credit is not None:
            coordinates = chosen.credit(reading, found)
        elif either(move_due, probe_due) is not False:
            known = {node: value for node, value in clean.arrived.items() if node != OUTPUTS}
            last = pass_for(chosen, reading, model, params, inputs, known)
        gradients, credit = gradients_and_credit(last, reading, coordinates)
        info = info_from(losses, clean.outputs, credit, gradients, aux=clean.aux, finite=finite)
        # Gradients are left out, so that those of frozen parameters are dead code.
        return gradients, state._replace(step=state.step + finite.astype(jnp.int32)), info

    return on_any_mesh(Estimator(init, estimate, parts.schedule))
