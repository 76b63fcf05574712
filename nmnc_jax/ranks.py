"""Chooses which stages are learned in the manifold of their input."""

from collections.abc import Callable, Mapping
from typing import Any

from nmnc_jax.checks import check_batch
from nmnc_jax.layout import examples_of, trace_nodes
from nmnc_jax.model_check import Choice, ModelReport, examine
from nmnc_jax.probes import Probe
from nmnc_jax.sharding import on_any_mesh
from nmnc_jax.state import NoiseCorrelationState
from nmnc_jax.taps import Model
from nmnc_jax.types import ApplyFn, Array, Batch, Due, Estimator, Info, LossFn, Params

AUTOMATIC = 128
"""Dimension of the manifolds of rank "auto"."""

Ranks = Mapping[str, int | None]


def manifold_ranks(
    report: ModelReport, rank: int, *, examples: int, probe: Probe, feedback_decay: float
) -> dict[str, int | None]:
    """Returns the rank of each stage: a manifold if its input has more units than there are probes.

    With isotropic noise the squared error of a feedback is (n + 1)/N of its square, for n units and
    the N probes that a moving average holds in the long run: examples times positions times
    `probe.num` times (1 + decay)/(1 - decay). If n exceeds N, noise in the manifold is used. A
    stage that sums over a part of its input, such as a convolution, uses isotropic noise.

    Args:
        report: report on the model, for the readout `mirror` or `next`.
        rank: dimension of a manifold, at most the number of units.
        examples: number of examples per update, B.
        probe: the perturbations; "auto" counts as one.
        feedback_decay: decay of the moving average.

    Returns:
        A dict from the name of a tap or stage to its rank, or None for all directions.
    """

    def rank_of(name: str) -> int | None:
        tap = report[name]
        num = probe.at(name).num if probe.num != "auto" else 1
        assert num is None or isinstance(num, int)
        each = examples * tap.steps * tap.shared * (num or 1)
        behind = each * (1 + feedback_decay) / (1 - feedback_decay)
        whole = tap.units == (tap.summed or tap.units)
        return min(rank, tap.units) if whole and tap.units > behind else None

    return {tap.name: rank_of(tap.name) for tap in report.taps}


def with_automatic_ranks(
    make: Callable[[Ranks], Estimator],
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    readout: Choice,
    probe: Probe,
    feedback_decay: float,
    has_aux: bool,
) -> Estimator:
    """Returns an estimator whose ranks are chosen at init and then read from its state.

    Args:
        make: function of ranks that returns the estimator.
        apply_fn: the model.
        loss_fn: ``loss_fn(outputs, targets) -> [B]``.
        readout: readout of the estimator.
        probe: probe of the estimator.
        feedback_decay: decay of the estimator's feedback.
        has_aux: whether the model returns ``(outputs, aux)``.
    """

    def init(
        params: Params, batch: Batch, *, key: Array | None = None, **kwargs: Any
    ) -> NoiseCorrelationState:
        model = Model(apply_fn, has_aux, kwargs)
        inputs, _ = check_batch(batch)
        nodes = trace_nodes(model, params, inputs)
        report = examine(model, loss_fn, params, batch, nodes, readout=readout, trial=False)
        examples = probe.perturbed or probe.rows or examples_of(nodes.outputs)
        ranks = manifold_ranks(
            report, AUTOMATIC, examples=examples, probe=probe, feedback_decay=feedback_decay
        )
        return make(ranks).init(params, batch, key=key, **kwargs)

    def estimate(
        key: Array,
        params: Params,
        batch: Batch,
        state: NoiseCorrelationState,
        *,
        due: Due | None = None,
        **kwargs: Any,
    ) -> tuple[Params, NoiseCorrelationState, Info]:
        ranks = {}
        if isinstance(state, NoiseCorrelationState):
            bases = {name: each.basis for name, each in state.subspace.items()}
            taps = state.layout.taps
            ranks = {t.name: None if bases[t.name] is None else t.dimension for t in taps}
        return make(ranks).estimate(key, params, batch, state, due=due, **kwargs)

    return on_any_mesh(Estimator(init, estimate, make({}).due))
