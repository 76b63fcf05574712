"""Checks on a few examples that what a method assumes of a model holds.

With exact quantities in place of the learned ones, a method's gradient equals that of ``jax.grad``,
and noise in one example does not change the others. The checks use the dependences in the traced
model, and passes with noise in some examples and time steps of a small batch.
"""

from nmnc_jax.model_check.examination import Causal, Choice, check_model, choices_of, examine
from nmnc_jax.model_check.memory import check_memory
from nmnc_jax.model_check.report import ModelReport, TapReport

__all__ = [
    "Causal",
    "Choice",
    "ModelReport",
    "TapReport",
    "check_memory",
    "check_model",
    "choices_of",
    "examine",
]
