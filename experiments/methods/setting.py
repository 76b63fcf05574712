"""The setting from which methods are built, and the parts that several methods share."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import nmnc_jax
from experiments.configuration import Config
from experiments.methods.controls import exact_feedback, in_every_step
from nmnc_jax import Estimator, Probe
from nmnc_jax.layout import TapShape
from nmnc_jax.linen import mirror_layers
from nmnc_jax.ranks import manifold_ranks
from nmnc_jax.types import ApplyFn, LossFn


class Setting(NamedTuple):
    """The arguments from which methods are built.

    Attributes:
        config: configuration with the method and its settings.
        apply_fn: the model.
        loss_fn: the loss of each example.
        shapes: the model's taps.
        outputs: number of outputs per example.
        report: the report on the model; None if the method assumes nothing of it.
        divide: function that divides the work on a subspace over devices.
    """

    config: Config
    apply_fn: ApplyFn
    loss_fn: LossFn
    shapes: dict[str, TapShape]
    outputs: int
    report: nmnc_jax.ModelReport | None
    divide: Callable[[nmnc_jax.Subspace], nmnc_jax.Subspace] = lambda subspace: subspace

    @property
    def causal(self) -> dict[str, bool] | None:
        """Tap name to whether responses follow its time; None if it is tried at init."""
        return None if self.report is None else self.report.causal

    @property
    def rank(self) -> dict[str, int]:
        """Dimension of each tap's subspace, at most its units."""
        return {
            name: min(self.config.method.rank, shape.units) for name, shape in self.shapes.items()
        }

    @property
    def probe(self) -> Probe:
        """The perturbations."""
        config = self.config
        return Probe(
            num=config.method.least_probes,
            kind=config.method.kind,
            difference=config.method.difference,
            sigma=config.method.sigma,
            scope=config.method.scope,
            perturbed=config.method.probe_rows,
        )

    @property
    def components(self) -> nmnc_jax.Subspace:
        """The manifold."""
        config = self.config
        components = nmnc_jax.pca(
            self.rank,
            explained_variance=config.method.explained_variance,
            update_every=config.method.basis_update_every,
            decay=config.method.basis_decay,
        )
        return self.divide(components)

    def with_feedback(self, subspace: nmnc_jax.Subspace, readout: str | None = None) -> Estimator:
        """Returns noise correlation with learned feedback."""
        config = self.config
        feedback = nmnc_jax.learned_feedback(
            config.method.feedback_decay, update_every=config.method.update_every
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
        """Returns mirrors of all linear layers, which use the manifold if probes are too few.

        Args:
            rank: dimension of the manifold; None for isotropic noise.
        """
        config, ranks = self.config, None
        if rank is not None:
            assert self.report is not None
            ranks = manifold_ranks(
                self.report,
                rank,
                examples=config.run.batch,
                probe=self.probe,
                feedback_decay=config.method.feedback_decay,
            )
        return nmnc_jax.weight_mirror(
            with_mirrored_layers(self.apply_fn),
            self.loss_fn,
            rank=ranks,
            probe=dataclasses.replace(self.probe, num=config.method.probes),
            feedback_decay=config.method.feedback_decay,
            update_every=config.method.update_every,
            basis_update_every=config.method.basis_update_every,
        )

    def with_exact_feedback(self, subspace: nmnc_jax.Subspace) -> Estimator:
        """Returns noise correlation with the exact mean Jacobian as feedback."""
        replaced = nmnc_jax.noise_correlation(
            self.apply_fn,
            self.loss_fn,
            subspace=subspace,
            readout="output",
            feedback=nmnc_jax.random_feedback(),
            causal=self.causal,
        )
        return in_every_step(exact_feedback(self.apply_fn), replaced)

    def by_loss(self, method: str, **settings: Any) -> Estimator:
        """Returns a method of the library that correlates with the loss."""
        return nmnc_jax.METHODS[method](self.apply_fn, self.loss_fn, causal=self.causal, **settings)

    def by_loss_in_manifold(self) -> Estimator:
        """Returns correlation with the loss of noise in the manifold."""
        return nmnc_jax.noise_correlation(
            self.apply_fn,
            self.loss_fn,
            subspace=self.components,
            readout="loss",
            probe=self.every_row,
            feedback=None,
            causal=self.causal,
        )

    @property
    def every_row(self) -> Probe:
        """The perturbations of all examples."""
        return dataclasses.replace(self.probe, perturbed=None)


def with_mirrored_layers(apply_fn: ApplyFn) -> ApplyFn:
    """Returns a tapped Linen model whose linear layers are also marked for mirrors."""

    def mirrored(params: Any, inputs: Any, tap: Any = nmnc_jax.no_tap) -> Any:
        return mirror_layers(lambda p, x: apply_fn(p, x, tap))(params, inputs, tap)

    return mirrored
