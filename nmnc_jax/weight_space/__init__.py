"""Estimators that perturb all weights at once: SPSA and forward gradients in weight space."""

from nmnc_jax.weight_space.methods import weight_forward_gradient, weight_perturbation

__all__ = ["weight_forward_gradient", "weight_perturbation"]
