"""The named methods; each composes an `Estimator`, and a table lists them."""

from collections.abc import Callable

from nmnc_jax.backprop import backprop
from nmnc_jax.methods.alignment import (
    direct_feedback_alignment,
    feedback_alignment,
    kolen_pollack,
)
from nmnc_jax.methods.correlation import nmnc, vnc
from nmnc_jax.methods.loss import forward_gradient, node_perturbation
from nmnc_jax.methods.mirror import weight_mirror
from nmnc_jax.types import Estimator
from nmnc_jax.weight_space import weight_forward_gradient, weight_perturbation

__all__ = [
    "METHODS",
    "backprop",
    "direct_feedback_alignment",
    "feedback_alignment",
    "forward_gradient",
    "kolen_pollack",
    "nmnc",
    "node_perturbation",
    "vnc",
    "weight_forward_gradient",
    "weight_mirror",
    "weight_perturbation",
]


METHODS: dict[str, Callable[..., Estimator]] = {
    method.__name__: method
    for method in (
        backprop,
        nmnc,
        vnc,
        node_perturbation,
        forward_gradient,
        weight_perturbation,
        weight_forward_gradient,
        weight_mirror,
        feedback_alignment,
        kolen_pollack,
        direct_feedback_alignment,
    )
}
"""Every named method, ``method(apply_fn, loss_fn, **settings) -> Estimator``."""
