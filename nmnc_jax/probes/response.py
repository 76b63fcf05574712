"""The response of a network to a perturbation, by differences or exact derivatives."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nmnc_jax.dependence import primitives_of
from nmnc_jax.layout import TapShape
from nmnc_jax.probes.probe import Probe
from nmnc_jax.taps import OUTPUTS, Tap
from nmnc_jax.types import Activations


def linear_response(
    forward: Callable[[Tap], dict[str, Any]],
    perturbed: Sequence[str],
    probe: Probe,
    *,
    clean: Mapping[str, Any],
    shapes: Mapping[str, TapShape],
    isolated: bool,
) -> Callable[[Activations], dict[str, Any]]:
    """Returns the function from a perturbation to the change of the response per unit of it.

    Values before the first perturbed tap are taken from the clean pass: finite differences replay
    them; with "jvp" every tap is pinned to its clean value, so that the compiler recognises each
    stage as one that it has already computed.

    Args:
        forward: function of a tap that returns the network's responses, pytrees of arrays.
        perturbed: names of the taps that are perturbed together.
        probe: the probe, with its difference and sigma.
        clean: what arrives at each node in the clean pass.
        shapes: shapes of all taps.
        isolated: whether each node passes on only its clean value and its own noise, without the
            effect of noise at earlier taps.

    Returns:
        A function of the noise xi (with the size of the activity) that returns J xi, exactly for
        "jvp" and up to finite-difference error otherwise.
    """
    # In a scan every tap also comes after all other taps of the previous step.
    outside = {name: clean[name] for name, shape in shapes.items() if shape.batch_axis == 0}
    if isolated:
        replay = {node: value for node, value in clean.items() if node != OUTPUTS}
    else:
        first = min(shapes[name].order for name in perturbed)
        replay = {n: value for n, value in outside.items() if shapes[n].order <= first}
    if probe.difference == "jvp":
        zeros = {name: jnp.zeros_like(clean[name]) for name in perturbed}
        fixed, pinned = (replay, {}) if isolated else ({}, outside)
        return linearized(
            lambda noise: forward(Tap(noise, replay=fixed, pinned=pinned)),
            zeros,
            where=f"tap {perturbed[0]!r}",
        )
    sigma = probe.sigma

    def respond(noise: Activations, factor: float) -> dict[str, Any]:
        noise = {name: factor * value for name, value in noise.items()}
        # The difference of two passes is smaller than the rounding of TF32 or bfloat16 products.
        with jax.default_matmul_precision("highest"):
            return forward(Tap(noise, replay=replay))

    def slopes(noise: Activations) -> dict[str, Any]:
        higher, lower = respond(noise, sigma), respond(noise, -sigma)
        return jax.tree.map(lambda high, low: (high - low) / (2 * sigma), higher, lower)

    if probe.difference == "central":
        return slopes
    with jax.default_matmul_precision("highest"):
        baseline = forward(Tap(replay=replay))

    def forward_slopes(noise: Activations) -> dict[str, Any]:
        return jax.tree.map(lambda high, low: (high - low) / sigma, respond(noise, sigma), baseline)

    return forward_slopes


def linearized(function: Callable[[Any], Any], primals: Any, *, where: str) -> Callable[[Any], Any]:
    """Returns the derivative of a function as a function of the direction.

    Args:
        function: function of one pytree.
        primals: the point at which the derivative is taken.
        where: what is perturbed, for the error message.

    Raises:
        ValueError: if the function contains a ``jax.custom_vjp`` or a callback.
    """
    held = None
    try:
        linear = jax.linearize(function, primals)[1]
        # JAX itself raises an error for it only when the derivative is compiled.
        if "custom_lin" in primitives_of(jax.make_jaxpr(linear)(primals)):
            held = "jax.custom_vjp"
        else:
            return linear
    except (TypeError, ValueError) as error:
        held = next((h for h in ("custom_vjp", "callback") if h in str(error).lower()), None)
        if held is None:
            raise
    raise ValueError(
        f'difference is "jvp" and the model holds a {held} after {where}, which has no directional '
        'derivative; it takes difference="central", or a jax.custom_jvp'
    )
