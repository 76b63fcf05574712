"""Recurrent networks with a tap inside the scan over time: leaky rate units, and a GRU.

The next step and the output layer, which a tapped value feeds, are marked as one linear stage, so
that the readout `next` learns both. Leak, nonlinearity and gates stay outside the stage and are
differentiated exactly.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from nmnc_jax.taps import TapLike, no_tap
from nmnc_jax.types import Array

RATES: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": nn.relu}


class LeakyRNN(nn.Module):
    """Continuous-time rate network in Euler steps: h <- (1 - a) h + a (W r + W_in x + b); tap rate.

    Attributes:
        units: number of units of the network, N.
        outputs: number of outputs at every time step, o, which are linear in the rates.
        leak: a, the time step divided by the units' time constant, in (0, 1].
        rate: r as a function of h: "tanh", or "relu" for positive rates.
        noise: standard deviation that each unit's state would have without input or recurrence. If
            it is positive, inputs are a pair (inputs, seeds), with an integer seed per example.
        gain: gain of the initial recurrent weights, which is nearly their spectral radius.

    Raises:
        ValueError: if `leak`, `rate` or `noise` is out of range, or if seeds are given without
            noise.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import run
        >>> from nmnc_jax.models import LeakyRNN
        >>> model = LeakyRNN(units=16, outputs=2)
        >>> params = model.init(jax.random.key(0), jnp.ones((1, 50, 3)))
        >>> outputs, activations = run(model.apply, params, jnp.ones((4, 50, 3)))
        >>> outputs.shape, activations["rate"].shape
        ((4, 50, 2), (50, 4, 16))
    """

    units: int
    outputs: int
    leak: float = 0.2
    rate: Literal["tanh", "relu"] = "tanh"
    noise: float = 0.0
    gain: float = 1.0

    @nn.compact
    def __call__(self, inputs: Array | tuple[Array, Array], tap: TapLike = no_tap) -> Array:
        """Maps inputs [B, T, i] to outputs [B, T, o]."""
        if self.rate not in RATES:
            raise ValueError(f"rate is {self.rate!r}; it takes one of {list(RATES)}")
        if not 0 < self.leak <= 1:
            raise ValueError(f"leak is {self.leak}; it takes a number above 0, up to 1")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise is {self.noise}; it takes 0 or a positive finite number")
        if isinstance(inputs, tuple) != (self.noise > 0):
            takes = "a pair (inputs, seeds)" if self.noise else "inputs without seeds"
            raise ValueError(f"noise is {self.noise}; it takes {takes}")
        x, seeds = inputs if isinstance(inputs, tuple) else (inputs, None)
        size = x.shape[-1]
        scaled = nn.initializers.normal(self.gain * self.units**-0.5)
        into = self.param("input", nn.initializers.lecun_normal(), (size, self.units))
        bias = self.param("bias", nn.initializers.zeros, (self.units,))
        recurrent = self.param("recurrent", scaled, (self.units, self.units))
        readout = self.param("output", nn.initializers.lecun_normal(), (self.units, self.outputs))
        output_bias = self.param("output_bias", nn.initializers.zeros, (self.outputs,))
        # The variance of a leaky unit is a / (2 - a) of the variance of its drive.
        spread = self.noise * ((2 - self.leak) / self.leak) ** 0.5

        def body(carry, now, tap):
            state, drive = carry
            driven, step = now
            drive = drive + driven
            if seeds is not None:
                drive = drive + spread * _noise(seeds, step, self.units)
            state = (1 - self.leak) * state + self.leak * drive
            rate = tap("rate", RATES[self.rate](state))
            stage = tap.linear(jnp.concatenate([rate @ recurrent, rate @ readout], axis=1))
            drive, output = stage[:, : self.units], stage[:, self.units :]
            return (state, drive), output + output_bias[None]

        nothing = jnp.zeros((len(x), self.units), x.dtype)
        driven = jnp.moveaxis(x, 1, 0) @ into + bias[None, None]
        _, outputs = tap.scan(body, (nothing, nothing), (driven, jnp.arange(x.shape[1])))
        return jnp.moveaxis(outputs, 0, 1)


class GRU(nn.Module):
    """Gated recurrent unit; tap state.

    The reset gate acts on the product with the recurrent weights, so that the state feeds only
    linear maps.

    Attributes:
        units: number of units of the network, N.
        outputs: number of outputs at every time step, o, which are linear in the state.

    Source:
        Cho et al. 2014 (arXiv 1406.1078).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax import run
        >>> from nmnc_jax.models import GRU
        >>> model = GRU(units=16, outputs=10)
        >>> params = model.init(jax.random.key(0), jnp.ones((1, 28, 28)))
        >>> run(model.apply, params, jnp.ones((4, 28, 28)))[1]["state"].shape
        (28, 4, 16)
    """

    units: int
    outputs: int

    @nn.compact
    def __call__(self, inputs: Array, tap: TapLike = no_tap) -> Array:
        """Maps inputs [B, T, i] to outputs [B, T, o]."""
        n, initial = self.units, nn.initializers.lecun_normal()
        into = self.param("input", initial, (inputs.shape[-1], 3 * n))
        bias = self.param("bias", nn.initializers.zeros, (3 * n,))
        recurrent = self.param("recurrent", nn.initializers.orthogonal(), (n, 3 * n))
        readout = self.param("output", initial, (n, self.outputs))
        output_bias = self.param("output_bias", nn.initializers.zeros, (self.outputs,))

        def body(carry, driven, tap):
            state, fed_back = carry
            gates = jax.nn.sigmoid(driven[:, : 2 * n] + fed_back[:, : 2 * n])
            reset, keep = gates[:, :n], gates[:, n:]
            candidate = jnp.tanh(driven[:, 2 * n :] + reset * fed_back[:, 2 * n :])
            state = keep * state + (1 - keep) * candidate
            seen = tap("state", state)
            stage = tap.linear(jnp.concatenate([seen @ recurrent, seen @ readout], axis=1))
            return (state, stage[:, : 3 * n]), stage[:, 3 * n :] + output_bias[None]

        def nothing(units):
            return jnp.zeros((len(inputs), units), inputs.dtype)

        carry = nothing(n), nothing(3 * n)
        driven = jnp.moveaxis(inputs, 1, 0) @ into + bias[None, None]
        _, outputs = tap.scan(body, carry, driven)
        return jnp.moveaxis(outputs, 0, 1)


class RowReader(nn.Module):
    """Gives images to a recurrent network row by row, and returns its output after the last row.

    Attributes:
        network: maps inputs [B, T, i] to outputs [B, T, o].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nmnc_jax.models import GRU, RowReader
        >>> model, images = RowReader(GRU(16, 10)), jnp.ones((4, 28, 28, 1))
        >>> model.apply(model.init(jax.random.key(0), images), images).shape
        (4, 10)
    """

    network: nn.Module

    @nn.compact
    def __call__(self, inputs: Array | tuple[Array, Array], tap: TapLike = no_tap) -> Array:
        """Maps images [B, H, W, C] to outputs [B, o]; sequences [B, T, i] to [B, T, o].

        Sequences may also be pairs (inputs, seeds), if the network takes them.
        """
        if isinstance(inputs, tuple) or inputs.ndim == 3:
            return self.network(inputs, tap)  # pyright: ignore[reportCallIssue]
        rows = inputs.reshape(*inputs.shape[:2], -1)
        return self.network(rows, tap)[:, -1]  # pyright: ignore[reportCallIssue]


def _noise(seeds: Array, step: Array, units: int) -> Array:
    """Draws the Gaussian noise of one time step, [B, N], for each example from its seed."""

    def one(seed: Array) -> Array:
        # With other generators an example's noise depends on the other seeds in the same map.
        key = jax.random.key(seed, impl="threefry2x32")
        return jax.random.normal(jax.random.fold_in(key, step), (units,))

    return jax.vmap(one)(seeds)
