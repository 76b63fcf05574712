"""The table of all methods that a configuration can name."""

import dataclasses
from collections.abc import Callable

import nmnc_jax
from experiments.methods.controls import (
    exact_credit_inside,
    exact_feedback_of_others,
    jacobian_rows,
    moved_by,
    one_step,
    without_rotation,
)
from experiments.methods.entry import (
    BY_LAYERS,
    BY_LOSS,
    BY_OUTPUTS,
    IN_MANIFOLD,
    LEARNED,
    RATE,
    Entry,
    Range,
)
from experiments.methods.setting import Setting, with_mirrored_layers
from nmnc_jax import Estimator


def _unrotated(setting: Setting) -> Estimator:
    components = setting.components
    return moved_by(
        without_rotation(setting.apply_fn, components),
        setting.with_feedback(components._replace(update=None)),
        every=setting.config.method.basis_update_every,
        at_start=False,
    )


def _oracle(setting: Setting) -> Estimator:
    # A mean Jacobian of o rows spans at most o directions.
    rank = {name: min(units, setting.outputs) for name, units in setting.rank.items()}
    return moved_by(
        jacobian_rows(setting.apply_fn),
        setting.with_feedback(nmnc_jax.random_subspace(rank)),
        every=setting.config.method.basis_update_every,
        at_start=True,
    )


def _seeded(method: str) -> Callable[[Setting], Estimator]:
    return lambda s: nmnc_jax.METHODS[method](
        s.apply_fn, s.loss_fn, seed=s.config.run.seed, check=False, causal=s.causal or False
    )


FORGOTTEN = 3e-3
"""Share of a weight that an update removes, so that mirrors approach weights in a few hundred."""

TABLE: dict[str, Entry] = {
    "backprop": Entry(
        "backpropagation",
        lambda s: nmnc_jax.backprop(s.apply_fn, s.loss_fn),
        "backprop",
        "black",
        needs=("backward pass", "derivative of the loss", "transposed weights"),
    ),
    "dfa": Entry(
        "direct feedback alignment: fixed random feedback from the outputs to each tap",
        _seeded("direct_feedback_alignment"),
        "local",
        "tab:gray",
        needs=BY_OUTPUTS,
    ),
    "vnc": Entry(
        "isotropic noise, correlated with the outputs",
        lambda s: s.with_feedback(nmnc_jax.isotropic()),
        "learned",
        "tab:blue",
        None,
        space=LEARNED,
        needs=BY_OUTPUTS,
    ),
    "nmnc": Entry(
        "noise in the neural manifold, correlated with the outputs",
        lambda s: s.with_feedback(s.components),
        "learned",
        "tab:red",
        None,
        subspace="manifold",
        space=IN_MANIFOLD,
        needs=BY_OUTPUTS,
    ),
    "nmnc_unrotated": Entry(
        "nmnc without rotation of the feedback when the basis moves",
        _unrotated,
        "learned",
        "salmon",
        None,
        subspace="manifold",
        control=True,
    ),
    "random_subspace": Entry(
        "nmnc in a random subspace of the manifold's dimension",
        lambda s: s.with_feedback(nmnc_jax.random_subspace(s.rank, seed=s.config.run.seed)),
        "learned",
        "tab:green",
        None,
        subspace="random",
        space=IN_MANIFOLD,
        needs=BY_OUTPUTS,
        control=True,
    ),
    "oracle_subspace": Entry(
        "nmnc in the rows of the exact mean Jacobian",
        _oracle,
        "learned",
        "gold",
        None,
        subspace="jacobian",
        control=True,
    ),
    "exact_feedback": Entry(
        "the exact mean Jacobian as feedback",
        lambda s: s.with_exact_feedback(nmnc_jax.isotropic()),
        "local",
        "slateblue",
        subspace="jacobian",
        control=True,
    ),
    "exact_feedback_manifold": Entry(
        "the part of the exact mean Jacobian in the manifold as feedback",
        lambda s: s.with_exact_feedback(s.components),
        "local",
        "orchid",
        subspace="jacobian",
        control=True,
    ),
    "exact_feedback_of_others": Entry(
        "the exact mean Jacobian of the batch's other examples as feedback",
        lambda s: exact_feedback_of_others(s.apply_fn, s.loss_fn),
        "local",
        "teal",
        control=True,
    ),
    "exact_credit_manifold": Entry(
        "the part of each example's exact credit in the manifold",
        lambda s: exact_credit_inside(s.apply_fn, s.loss_fn, s.by_loss_in_manifold()),
        "probed",
        "rosybrown",
        "loss",
        subspace="manifold",
        control=True,
    ),
    "node_perturbation": Entry(
        "noise in activity, correlated with the loss",
        lambda s: s.by_loss("node_perturbation", probe=s.every_row),
        "probed",
        "tab:orange",
        "loss",
        needs=BY_LOSS,
    ),
    "node_perturbation_manifold": Entry(
        "noise in the manifold, correlated with the loss",
        lambda s: s.by_loss_in_manifold(),
        "probed",
        "tab:brown",
        "loss",
        subspace="manifold",
        space={**RATE, "rank": IN_MANIFOLD["rank"]},
        needs=BY_LOSS,
    ),
    "forward_gradient": Entry(
        "the exact derivative of the loss along noise in activity",
        lambda s: s.by_loss(
            "forward_gradient", probe=dataclasses.replace(s.every_row, difference="jvp")
        ),
        "probed",
        "tab:purple",
        "loss",
        needs=("derivative of the network, forwards", "derivative of the loss", *BY_LOSS),
    ),
    "weight_perturbation": Entry(
        "noise in the weights, correlated with the loss",
        lambda s: nmnc_jax.weight_perturbation(
            s.apply_fn, s.loss_fn, num=s.config.method.least_probes, sigma=s.config.method.sigma
        ),
        "weights",
        "tab:olive",
        space={**RATE, "sigma": Range(1e-4, 1e-1)},
    ),
    "weight_forward_gradient": Entry(
        "the exact derivative of the loss along noise in the weights",
        lambda s: nmnc_jax.weight_forward_gradient(
            s.apply_fn, s.loss_fn, num=s.config.method.least_probes
        ),
        "weights",
        "darkgoldenrod",
        needs=("derivative of the network, forwards", "derivative of the loss"),
    ),
    "weight_mirror": Entry(
        "isotropic noise, correlated with the next linear stage",
        lambda s: s.with_feedback(nmnc_jax.isotropic(), "next"),
        "learned",
        "tab:cyan",
        "next",
        space=LEARNED,
        needs=BY_LAYERS,
    ),
    "weight_mirror_manifold": Entry(
        "noise in the manifold, correlated with the next linear stage",
        lambda s: s.with_feedback(s.components, "next"),
        "learned",
        "tab:pink",
        "next",
        subspace="manifold",
        space=IN_MANIFOLD,
        needs=BY_LAYERS,
    ),
    "mirror": Entry(
        "weight mirrors in the form of the layers' weights",
        lambda s: s.with_mirrors(None),
        "mirrored",
        "deepskyblue",
        "mirror",
        space=LEARNED,
        needs=BY_LAYERS,
    ),
    "mirror_manifold": Entry(
        "mirror, in the manifold of a layer's input if probes are too few",
        lambda s: s.with_mirrors(s.config.method.rank),
        "mirrored",
        "navy",
        "mirror",
        subspace="manifold",
        space=IN_MANIFOLD,
        needs=BY_LAYERS,
    ),
    "feedback_alignment": Entry(
        "fixed random feedback from each linear stage",
        _seeded("feedback_alignment"),
        "local",
        "darkkhaki",
        needs=BY_LAYERS,
    ),
    "sign_symmetric": Entry(
        "feedback in the form of the weights, with their signs",
        lambda s: nmnc_jax.feedback_alignment(
            with_mirrored_layers(s.apply_fn),
            s.loss_fn,
            sign_symmetric="uniform",
            seed=s.config.run.seed,
            check=False,
        ),
        "local",
        "seagreen",
        "mirror",
        needs=("signs of the transposed weights", *BY_LAYERS),
    ),
    "kolen_pollack": Entry(
        "feedback in the form of the weights that follows their updates",
        lambda s: nmnc_jax.kolen_pollack(
            with_mirrored_layers(s.apply_fn),
            s.loss_fn,
            weight_decay=FORGOTTEN,
            seed=s.config.run.seed,
            check=False,
        ),
        "local",
        "mediumaquamarine",
        "mirror",
        needs=BY_LAYERS,
        loses=FORGOTTEN,
    ),
    "one_step": Entry(
        "recurrent networks: backpropagation without the path through the recurrent weights",
        lambda s: one_step(s.apply_fn, s.loss_fn),
        "local",
        "teal",
        recurrent=True,
        control=True,
    ),
}
METHODS = tuple(TABLE)
COLOURS = {name: entry.colour for name, entry in TABLE.items()}
