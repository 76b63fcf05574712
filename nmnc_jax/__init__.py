"""Train networks by perturbing them inside the manifold of their own activity."""

from nmnc_jax import diagnostics
from nmnc_jax.credit import credit_from_state, gradients_from_credit
from nmnc_jax.feedback import Feedback, learned_feedback, random_feedback
from nmnc_jax.following import kolen_pollack_feedback, sign_symmetric_feedback
from nmnc_jax.groups import grouped
from nmnc_jax.layers import mirror_layers
from nmnc_jax.methods import (
    METHODS,
    backprop,
    direct_feedback_alignment,
    feedback_alignment,
    forward_gradient,
    kolen_pollack,
    nmnc,
    node_perturbation,
    vnc,
    weight_forward_gradient,
    weight_mirror,
    weight_perturbation,
)
from nmnc_jax.model_check import ModelReport, check_model
from nmnc_jax.noise_correlation import noise_correlation
from nmnc_jax.probes import Probe
from nmnc_jax.readouts import Readout
from nmnc_jax.subspace import Subspace, fixed_subspace, isotropic, pca, random_subspace
from nmnc_jax.taps import no_tap, run
from nmnc_jax.types import Due, Estimator, Info

__all__ = [
    "METHODS",
    "Due",
    "Estimator",
    "Feedback",
    "Info",
    "ModelReport",
    "Probe",
    "Readout",
    "Subspace",
    "backprop",
    "check_model",
    "credit_from_state",
    "diagnostics",
    "direct_feedback_alignment",
    "feedback_alignment",
    "fixed_subspace",
    "forward_gradient",
    "gradients_from_credit",
    "grouped",
    "isotropic",
    "kolen_pollack",
    "kolen_pollack_feedback",
    "learned_feedback",
    "mirror_layers",
    "nmnc",
    "no_tap",
    "node_perturbation",
    "noise_correlation",
    "pca",
    "random_feedback",
    "random_subspace",
    "run",
    "sign_symmetric_feedback",
    "vnc",
    "weight_forward_gradient",
    "weight_mirror",
    "weight_perturbation",
]
