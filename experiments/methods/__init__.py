"""Every method a configuration can name, built from its fields."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import nmnc_jax
from experiments.configuration import Config, UserError
from experiments.methods.controls import (
    exact_feedback,
    jacobian_rows,
    moved_by,
    one_step,
    without_rotation,
)
from experiments.training.mesh import Devices
from nmnc_jax import Estimator, Probe
from nmnc_jax.layout import TapShape
from nmnc_jax.linen import mirror_layers
from nmnc_jax.ranks import manifold_ranks
from nmnc_jax.types import ApplyFn, LossFn

ALIASES = {"direct_feedback_alignment": "dfa"}


class Setting(NamedTuple):
    """What methods are built from.

    Attributes:
        config: names the method and its settings.
        apply_fn: the model.
        loss_fn: the loss of each example.
        shapes: the model's taps.
        outputs: number of outputs per example.
        report: what was found of the model; None where the method assumes nothing of it.
        devices: over which work on the components is divided; None: it is not.
    """

    config: Config
    apply_fn: ApplyFn
    loss_fn: LossFn
    shapes: dict[str, TapShape]
    outputs: int
    report: nmnc_jax.ModelReport | None
    devices: Devices | None = None

    @property
    def causal(self) -> dict[str, bool] | None:
        """Tap name to whether responses follow its time; None: tried at init."""
        return None if self.report is None else self.report.causal

    @property
    def rank(self) -> dict[str, int]:
        """Dimension of each tap's subspace, at most its units."""
        return {name: min(self.config.rank, shape.units) for name, shape in self.shapes.items()}

    @property
    def probe(self) -> Probe:
        """The perturbations."""
        config = self.config
        return Probe(
            num=config.least_probes,
            kind=config.kind,
            difference=config.difference,
            sigma=config.sigma,
            scope=config.scope,
            perturbed=config.probe_rows,
        )

    @property
    def components(self) -> nmnc_jax.Subspace:
        """The manifold."""
        config = self.config
        components = nmnc_jax.pca(
            self.rank,
            explained_variance=config.explained_variance,
            update_every=config.basis_update_every,
            decay=config.basis_decay,
        )
        return self.devices.divide_updates(components) if self.devices else components

    def with_feedback(self, subspace: nmnc_jax.Subspace, readout: str | None = None) -> Estimator:
        """Noise correlation with learned feedback."""
        config = self.config
        feedback = nmnc_jax.learned_feedback(
            config.feedback_decay, update_every=config.update_every
        )
        return nmnc_jax.noise_correlation(
            self.apply_fn,
            self.loss_fn,
            subspace=subspace,
            readout=readout,
            probe=self.probe,
            feedback=feedback,
            causal=self.causal,
        )

    def with_mirrors(self, rank: int | None) -> Estimator:
        """Mirrors of all linear layers; with a rank in the manifold, where probes are too few."""
        config, ranks = self.config, None
        if rank is not None:
            assert self.report is not None
            ranks = manifold_ranks(
                self.report,
                rank,
                examples=config.batch,
                probe=self.probe,
                feedback_decay=config.feedback_decay,
            )
        return nmnc_jax.weight_mirror(
            with_mirrored_layers(self.apply_fn),
            self.loss_fn,
            rank=ranks,
            probe=dataclasses.replace(self.probe, num=config.probes),
            feedback_decay=config.feedback_decay,
            update_every=config.update_every,
            basis_update_every=config.basis_update_every,
        )

    def with_exact_feedback(self, subspace: nmnc_jax.Subspace) -> Estimator:
        """The exact mean Jacobian in the place of what probes measure."""
        replaced = nmnc_jax.noise_correlation(
            self.apply_fn,
            self.loss_fn,
            subspace=subspace,
            readout="output",
            feedback=nmnc_jax.random_feedback(),
            causal=self.causal,
        )
        return moved_by(exact_feedback(self.apply_fn), replaced, every=1, at_start=True)

    def by_loss(self, method: str, **settings: Any) -> Estimator:
        """A method of the library that correlates with the loss, with a probe in every row."""
        return nmnc_jax.METHODS[method](self.apply_fn, self.loss_fn, causal=self.causal, **settings)

    @property
    def every_row(self) -> Probe:
        """The perturbations of all examples."""
        return dataclasses.replace(self.probe, perturbed=None)


def with_mirrored_layers(apply_fn: ApplyFn) -> ApplyFn:
    """A Linen model with its own taps, whose linear layers are marked for mirrors."""

    def mirrored(params: Any, inputs: Any, tap: Any = nmnc_jax.no_tap) -> Any:
        return mirror_layers(lambda p, x: apply_fn(p, x, tap))(params, inputs, tap)

    return mirrored


def _unrotated(setting: Setting) -> Estimator:
    components = setting.components
    return moved_by(
        without_rotation(setting.apply_fn, components),
        setting.with_feedback(components._replace(update=None)),
        every=setting.config.basis_update_every,
        at_start=False,
    )


def _oracle(setting: Setting) -> Estimator:
    # A mean Jacobian of o rows spans no more directions.
    rank = {name: min(units, setting.outputs) for name, units in setting.rank.items()}
    return moved_by(
        jacobian_rows(setting.apply_fn),
        setting.with_feedback(nmnc_jax.random_subspace(rank)),
        every=setting.config.basis_update_every,
        at_start=True,
    )


def _seeded(method: str) -> Callable[[Setting], Estimator]:
    return lambda s: nmnc_jax.METHODS[method](
        s.apply_fn, s.loss_fn, seed=s.config.seed, check=False, causal=s.causal or False
    )


class Entry(NamedTuple):
    """One method.

    Attributes:
        build: makes its estimator.
        cost: what a step costs: "backprop", "weights" (pairs of passes), "local" (no probes),
            "learned" (probes when the feedback is due), "mirrored" (of each layer by itself, its
            response and its weights' gradient) or "probed" (probes in every step).
        readout: as `nmnc_jax.check_model` takes it; "" where nothing is assumed of the model.
    """

    build: Callable[[Setting], Estimator]
    cost: str
    readout: str | None = ""


TABLE: dict[str, Entry] = {
    "backprop": Entry(lambda s: nmnc_jax.backprop(s.apply_fn, s.loss_fn), "backprop"),
    "dfa": Entry(_seeded("direct_feedback_alignment"), "local"),
    "vnc": Entry(lambda s: s.with_feedback(nmnc_jax.isotropic()), "learned", None),
    "nmnc": Entry(lambda s: s.with_feedback(s.components), "learned", None),
    "nmnc_unrotated": Entry(_unrotated, "learned", None),
    "random_subspace": Entry(
        lambda s: s.with_feedback(nmnc_jax.random_subspace(s.rank, seed=s.config.seed)),
        "learned",
        None,
    ),
    "oracle_subspace": Entry(_oracle, "learned", None),
    "exact_feedback": Entry(lambda s: s.with_exact_feedback(nmnc_jax.isotropic()), "local"),
    "exact_feedback_manifold": Entry(lambda s: s.with_exact_feedback(s.components), "local"),
    "node_perturbation": Entry(
        lambda s: s.by_loss("node_perturbation", probe=s.every_row), "probed", "loss"
    ),
    "node_perturbation_manifold": Entry(
        lambda s: s.by_loss("node_perturbation", probe=s.every_row, rank=s.rank), "probed", "loss"
    ),
    "forward_gradient": Entry(
        lambda s: s.by_loss(
            "forward_gradient", probe=dataclasses.replace(s.every_row, difference="jvp")
        ),
        "probed",
        "loss",
    ),
    "weight_perturbation": Entry(
        lambda s: nmnc_jax.weight_perturbation(
            s.apply_fn, s.loss_fn, num=s.config.least_probes, sigma=s.config.sigma
        ),
        "weights",
    ),
    "weight_mirror": Entry(
        lambda s: s.with_feedback(nmnc_jax.isotropic(), "next"), "learned", "next"
    ),
    "weight_mirror_manifold": Entry(
        lambda s: s.with_feedback(s.components, "next"), "learned", "next"
    ),
    "mirror": Entry(lambda s: s.with_mirrors(None), "mirrored", "mirror"),
    "mirror_manifold": Entry(lambda s: s.with_mirrors(s.config.rank), "mirrored", "mirror"),
    "feedback_alignment": Entry(_seeded("feedback_alignment"), "local"),
    "sign_symmetric": Entry(
        lambda s: nmnc_jax.feedback_alignment(
            with_mirrored_layers(s.apply_fn),
            s.loss_fn,
            sign_symmetric="uniform",
            seed=s.config.seed,
            check=False,
        ),
        "local",
        "mirror",
    ),
    "one_step": Entry(lambda s: one_step(s.apply_fn, s.loss_fn), "local"),
}
METHODS = tuple(TABLE)


def check_method(name: str) -> str:
    """Returns a method's name as listed.

    Raises:
        UserError: if there is none of that name.
    """
    name = ALIASES.get(name, name)
    if name not in TABLE:
        raise UserError(f"unknown estimator {name!r}; there are {', '.join(METHODS)}")
    return name


def readout_of(config: Config) -> str | None:
    """The readout with which a method's model is to be checked; "" where it needs no check."""
    return TABLE[check_method(config.estimator)].readout


def build_estimator(setting: Setting) -> Estimator:
    """Builds the estimator that a configuration describes."""
    return TABLE[check_method(setting.config.estimator)].build(setting)


def forward_passes(config: Config, taps: int) -> float:
    """Passes of one step: backward ones to activity or weights, and each probe's, count as one.

    What a control is given of the exact Jacobian costs it nothing here.
    """
    cost = TABLE[check_method(config.estimator)].cost
    if cost in ("backprop", "local", "weights"):
        return {"backprop": 3, "local": 2, "weights": 2 * config.least_probes}[cost]
    if cost == "mirrored":
        return 3 + 2 * config.least_probes / config.update_every
    passes_of = {"jvp": 1, "forward": 1, "central": 2}[config.difference]
    together = 1 if config.scope == "all_taps" else taps
    every = config.update_every if cost == "learned" else 1
    return 2 + passes_of * together * config.least_probes / every
