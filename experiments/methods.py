"""Every method a configuration can name, built from its fields."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from jax import lax

import nmnc_jax
from experiments.config import Config, UserError
from nmnc_jax import Estimator, Probe
from nmnc_jax.shapes import TapShape
from nmnc_jax.types import ApplyFn, Array, Batch, LossFn, Params

METHODS = (
    "backprop",
    "dfa",
    "vnc",
    "nmnc",
    "nmnc_unrotated",
    "random_subspace",
    "node_perturbation",
    "node_perturbation_manifold",
    "forward_gradient",
    "weight_perturbation",
    "weight_mirror",
    "weight_mirror_manifold",
    "feedback_alignment",
)
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
    divided: dict[str, Any] = {}
    if config.probe_devices > 1:
        divided = {"chunk": config.probe_devices, "mesh_axis": "probe"}
    probe = Probe(
        num=config.probes,
        kind=config.kind,
        difference=config.difference,
        sigma=config.sigma,
        scope=config.scope,
        **divided,
    )
    feedback = nmnc_jax.learned_feedback(config.feedback_decay, update_every=config.update_every)
    exact_probe = dataclasses.replace(probe, difference="jvp")

    components = nmnc_jax.pca(
        rank, update_every=config.basis_update_every, decay=config.basis_decay
    )

    def with_feedback(
        subspace: nmnc_jax.Subspace, readout: Literal["output", "next"] = "output"
    ) -> Estimator:
        return nmnc_jax.noise_correlation(
            apply_fn, loss_fn, subspace=subspace, readout=readout, probe=probe, feedback=feedback
        )

    makers: dict[str, Callable[[], Estimator]] = {
        "backprop": lambda: nmnc_jax.backprop(apply_fn, loss_fn),
        "dfa": lambda: nmnc_jax.direct_feedback_alignment(apply_fn, loss_fn, seed=config.seed),
        "vnc": lambda: with_feedback(nmnc_jax.isotropic()),
        "nmnc": lambda: with_feedback(components),
        "nmnc_unrotated": lambda: unrotated(
            apply_fn, with_feedback(components._replace(update=None)), components
        ),
        "random_subspace": lambda: with_feedback(nmnc_jax.random_subspace(rank, seed=config.seed)),
        "node_perturbation": lambda: nmnc_jax.node_perturbation(apply_fn, loss_fn, probe=probe),
        "node_perturbation_manifold": lambda: nmnc_jax.node_perturbation(
            apply_fn, loss_fn, probe=probe, rank=rank
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
    }
    return makers[check_method(config.estimator)]()


def unrotated(apply_fn: ApplyFn, estimator: Estimator, subspace: nmnc_jax.Subspace) -> Estimator:
    """Moves the bases of noise correlation without carrying the feedback over to the new ones.

    It shows what the rotation is for: the same coordinates then stand for other directions.

    Args:
        apply_fn: the model.
        estimator: noise correlation whose bases would not move.
        subspace: how they are to move.
    """
    move = subspace.update
    assert move is not None

    def estimate(key: Array, params: Params, batch: Batch, state: Any) -> tuple[Any, Any, Any]:
        def moved(bases: dict[str, Any]) -> dict[str, Any]:
            _, activations = nmnc_jax.run(apply_fn, params, batch[0])
            return {name: move(old, activations[name].reshape(len(batch[0]), -1))
                    for name, old in bases.items()}  # fmt: skip

        due = (state.step > 0) & (state.step % subspace.update_every == 0)
        bases = lax.cond(due, moved, lambda bases: bases, state.subspace)
        return estimator.estimate(key, params, batch, state._replace(subspace=bases))

    return Estimator(estimator.init, estimate)
