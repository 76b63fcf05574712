"""A multilayer perceptron whose hidden units are 1 or -1, so that it has no useful derivative."""

from typing import Any

import jax
import jax.numpy as jnp

from nmnc_jax.models.mlp import MLP
from nmnc_jax.taps import TapLike
from nmnc_jax.types import Array


@jax.custom_jvp
def sign(x: Array) -> Array:
    """Returns 1 where x is 0 or more and -1 elsewhere, with the straight-through derivative.

    The straight-through derivative is 1 for x within [-1, 1] and 0 elsewhere. Backpropagation uses
    it in place of the true derivative, which is zero almost everywhere.

    Source:
        Courbariaux et al. 2016 (arXiv 1602.02830).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax.models.binary import sign
        >>> jax.jvp(sign, (jnp.array([-2.0, 0.5]),), (jnp.ones(2),))
        (Array([-1.,  1.], dtype=float32), Array([0., 1.], dtype=float32))
    """
    return jnp.where(x >= 0, jnp.ones_like(x), -jnp.ones_like(x))


@sign.defjvp
def _straight_through(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return sign(x), jnp.where(jnp.abs(x) <= 1, dx, jnp.zeros_like(dx))


class BinaryMLP(MLP):
    """Dense layers of units that are 1 or -1; taps dense0, dense1, ... before the threshold.

    Finite differences (``Probe(difference="central", sigma=...)``) measure the true effect of
    noise; derivatives (``"jvp"``, backpropagation) are straight-through derivatives.

    Attributes:
        features: number of units of each hidden layer.
        outputs: number of units of the output layer, o.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import run
        >>> from nmnc_jax.models import BinaryMLP
        >>> model = BinaryMLP(features=(16,), outputs=10)
        >>> params = model.init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))
        >>> run(model.apply, params, jnp.ones((5, 8, 8, 1)))[1]["dense0"].shape
        (5, 16)
    """

    def activation(self, name: str, x: Array, tap: TapLike) -> Array:
        """Taps the sums of a hidden layer, and maps them to 1 or -1."""
        return sign(tap(name, x))
