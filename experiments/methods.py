"""Every method a configuration can name, built from its fields."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import nmnc_jax
from experiments.config import Config, UserError
from experiments.controls import (
    exact_feedback,
    jacobian_rows,
    moved_by,
    one_step,
    without_rotation,
)
from nmnc_jax import Estimator, Probe
from nmnc_jax.shapes import TapShape
from nmnc_jax.types import ApplyFn, LossFn

METHODS = (
    "backprop",
    "dfa",
    "vnc",
    "nmnc",
    "nmnc_unrotated",
    "random_subspace",
    "oracle_subspace",
    "exact_feedback",
    "exact_feedback_manifold",
    "node_perturbation",
    "node_perturbation_manifold",
    "forward_gradient",
    "weight_perturbation",
    "weight_mirror",
    "weight_mirror_manifold",
    "feedback_alignment",
    "one_step",
)
LEARNED = (
    "vnc",
    "nmnc",
    "nmnc_unrotated",
    "random_subspace",
    "oracle_subspace",
    "weight_mirror",
    "weight_mirror_manifold",
)
"""Methods whose feedback is a moving average."""
CHAINED = ("weight_mirror", "weight_mirror_manifold", "feedback_alignment")
"""Methods whose credit goes from stage to stage."""
ALIASES = {"direct_feedback_alignment": "dfa"}


def check_method(name: str) -> str:
    """Returns a method's name as listed.

    Raises:
        UserError: if there is none of that name.
    """
    name = ALIASES.get(name, name)
    if name not in METHODS:
        raise UserError(f"unknown estimator {name!r}; there are {', '.join(METHODS)}")
    return name


def build_estimator(
    config: Config, apply_fn: ApplyFn, loss_fn: LossFn, shapes: dict[str, TapShape]
) -> Estimator:
    """Builds the estimator that a configuration describes.

    Args:
        config: names the method and its settings.
        apply_fn: the model.
        loss_fn: the loss of each example.
        shapes: the model's taps; a rank is at most a tap's units.
    """
    rank = {name: min(config.rank, shape.units) for name, shape in shapes.items()}
    # A mean Jacobian of o rows spans no more directions.
    last = max(shapes.values(), key=lambda shape: shape.order)
    oracle_rank = {name: min(units, math.prod(last.stage[1:])) for name, units in rank.items()}
    divided: dict[str, Any] = {}
    if config.probe_devices > 1:
        divided = {"chunk": config.probe_devices, "mesh_axis": "probe"}
    probe = Probe(
        num=config.probes,
        kind=config.kind,
        difference=config.difference,
        sigma=config.sigma,
        scope=config.scope,
        rows=config.probe_rows,
        **divided,
    )
    feedback = nmnc_jax.learned_feedback(config.feedback_decay, update_every=config.update_every)
    exact_probe = dataclasses.replace(probe, difference="jvp", rows=None)
    every_row = dataclasses.replace(probe, rows=None)

    components = nmnc_jax.pca(
        rank,
        explained_variance=config.explained_variance,
        update_every=config.basis_update_every,
        decay=config.basis_decay,
    )

    def with_feedback(
        subspace: nmnc_jax.Subspace, readout: Literal["next"] | None = None
    ) -> Estimator:
        return nmnc_jax.noise_correlation(
            apply_fn, loss_fn, subspace=subspace, readout=readout, probe=probe, feedback=feedback
        )

    def with_exact_feedback(subspace: nmnc_jax.Subspace) -> Estimator:
        replaced = nmnc_jax.noise_correlation(
            apply_fn,
            loss_fn,
            subspace=subspace,
            readout="output",
            probe=probe,
            feedback=nmnc_jax.random_feedback(),
        )
        return moved_by(exact_feedback(apply_fn), replaced, every=1, at_start=True)

    makers: dict[str, Callable[[], Estimator]] = {
        "backprop": lambda: nmnc_jax.backprop(apply_fn, loss_fn),
        "dfa": lambda: nmnc_jax.direct_feedback_alignment(apply_fn, loss_fn, seed=config.seed),
        "vnc": lambda: with_feedback(nmnc_jax.isotropic()),
        "nmnc": lambda: with_feedback(components),
        "nmnc_unrotated": lambda: moved_by(
            without_rotation(apply_fn, components),
            with_feedback(components._replace(update=None)),
            every=config.basis_update_every,
            at_start=False,
        ),
        "oracle_subspace": lambda: moved_by(
            jacobian_rows(apply_fn),
            with_feedback(nmnc_jax.random_subspace(oracle_rank)),
            every=config.basis_update_every,
            at_start=True,
        ),
        "random_subspace": lambda: with_feedback(nmnc_jax.random_subspace(rank, seed=config.seed)),
        "exact_feedback": lambda: with_exact_feedback(nmnc_jax.isotropic()),
        "exact_feedback_manifold": lambda: with_exact_feedback(components),
        "node_perturbation": lambda: nmnc_jax.node_perturbation(apply_fn, loss_fn, probe=every_row),
        "node_perturbation_manifold": lambda: nmnc_jax.node_perturbation(
            apply_fn, loss_fn, probe=every_row, rank=rank
        ),
        "forward_gradient": lambda: nmnc_jax.forward_gradient(apply_fn, loss_fn, probe=exact_probe),
        "weight_perturbation": lambda: nmnc_jax.weight_perturbation(
            apply_fn, loss_fn, num=config.probes, sigma=config.sigma
        ),
        "weight_mirror": lambda: with_feedback(nmnc_jax.isotropic(), "next"),
        "weight_mirror_manifold": lambda: with_feedback(components, "next"),
        "feedback_alignment": lambda: nmnc_jax.feedback_alignment(
            apply_fn, loss_fn, seed=config.seed
        ),
        "one_step": lambda: one_step(apply_fn, loss_fn),
    }
    return makers[check_method(config.estimator)]()


def forward_passes(config: Config, taps: int) -> float:
    """Passes of one step: backward ones to activity or weights, and each probe's, count as one.

    What a control is told of the exact Jacobian costs it nothing here.
    """
    method = check_method(config.estimator)
    passes_of = {"jvp": 1, "forward": 1, "central": 2}[config.difference]
    together = 1 if config.scope == "all_taps" else taps
    if method == "backprop":
        return 3
    if method == "weight_perturbation":
        return 2 * config.probes
    if method in ("dfa", "feedback_alignment", "exact_feedback", "exact_feedback_manifold",
                  "one_step"):  # fmt: skip
        return 2
    every = config.update_every if method in LEARNED else 1
    return 2 + passes_of * together * config.probes / every
