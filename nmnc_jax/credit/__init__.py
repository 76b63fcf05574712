"""Computes credit at each tap from output error and feedback, and gradients from credit."""

from nmnc_jax.credit.losses import check_first_losses, losses_and_error, losses_of
from nmnc_jax.credit.passes import (
    LocalPass,
    floating,
    gradients_and_credit,
    info_from,
    local_pass,
    pass_for,
    reading_of,
)
from nmnc_jax.credit.standalone import credit_from_state, gradients_from_credit

__all__ = [
    "LocalPass",
    "check_first_losses",
    "credit_from_state",
    "floating",
    "gradients_and_credit",
    "gradients_from_credit",
    "info_from",
    "local_pass",
    "losses_and_error",
    "losses_of",
    "pass_for",
    "reading_of",
]
