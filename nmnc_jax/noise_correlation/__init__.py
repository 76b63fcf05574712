"""The general method, which composes subspace, readout, probe and feedback into an estimator."""

from nmnc_jax.noise_correlation.method import noise_correlation

__all__ = ["noise_correlation"]
