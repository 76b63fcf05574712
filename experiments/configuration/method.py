"""The section `Method` of a configuration."""

import dataclasses
from typing import Literal

from experiments.configuration.section import Section


@dataclasses.dataclass(frozen=True)
class Method(Section):
    """How gradients are estimated.

    The defaults are the library's, except for one Gaussian probe in every step, by which methods
    are compared; the library's `nmnc` takes orthogonal probes in one step of ten, which cost less.
    """

    estimator: str = "nmnc"
    """Name of the method that estimates gradients; --help lists them."""
    rank: int = 64
    """Dimension of the manifold at each tap (at most the tap's units)."""
    explained_variance: float | None = None
    """Perturb the smallest number of principal components that explains this share of a tap's
    variance, up to rank, chosen at each update of the components; by default all are perturbed."""
    probes: int | Literal["auto"] = 1
    """Probes per example and tap at each feedback update (passes, for weight_perturbation). "auto":
    as many as each layer needs, for mirror and mirror_manifold; one for other methods."""
    probe_rows: int | None = None
    """Number of examples (for a recurrent network: of examples at one time step) that are perturbed
    at each feedback update; by default all."""
    kind: Literal["gaussian", "rademacher", "orthogonal"] = "gaussian"
    """Distribution of the probes' coordinates."""
    difference: Literal["central", "forward", "jvp"] = "jvp"
    """How the response to a probe is measured."""
    sigma: float = 1e-3
    """Size of perturbations relative to each tap's RMS activity, so that all methods perturb with
    the same energy; for weight_perturbation the standard deviation of the noise in the weights."""
    scope: Literal["each_tap", "all_taps"] = "each_tap"
    """Perturb one tap at a time, or all taps in one pass."""
    feedback_decay: float = 0.9
    """Decay of the feedback's moving average."""
    update_every: int = 1
    """Steps between feedback updates."""
    basis_batch: int = 1500
    """Training examples that fit the first basis. An update that is a program of its own uses at
    most this number of examples of the batch."""
    basis_update_every: int = 100
    """Steps between updates of the principal components."""
    basis_decay: float = 0.7
    """Weight of earlier activity at each update of the principal components."""

    @property
    def least_probes(self) -> int:
        """Number of probes per example, which is 1 if it depends on the layer."""
        return 1 if self.probes == "auto" else self.probes

    def __post_init__(self) -> None:
        """Checks the range of each field.

        Raises:
            UserError: if a field is out of range.
        """
        self.counts(
            "rank", "probes", "probe_rows", "update_every", "basis_batch", "basis_update_every"
        )
        self.positive("sigma")
        self.require("feedback_decay", 0 <= self.feedback_decay < 1, "a number from 0 to below 1")
        self.require("basis_decay", 0 <= self.basis_decay <= 1, "a number from 0 to 1")
        if self.explained_variance is not None:
            fits = 0 < self.explained_variance <= 1
            self.require("explained_variance", fits, "a number above 0, up to 1, or nothing")
