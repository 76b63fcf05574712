"""Tapped submodules under Linen's transformations."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from nmnc_jax.taps import TapLike


def lift(
    transform: Callable[..., Any], module: nn.Module, tap: TapLike, **settings: Any
) -> Callable[..., Any]:
    """Calls a tapped submodule under one of Linen's transformations, such as ``nn.remat``.

    Args:
        transform: ``nn.remat``, ``nn.checkpoint`` or ``nn.jit``.
        module: a submodule whose ``__call__`` takes a tap as its last argument.
        tap: the tap of the module around it.
        settings: passed to `transform`.

    Returns:
        A function of the arguments before the tap and of static keyword arguments.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from nmnc_jax import no_tap, run
        >>> from nmnc_jax.linen import lift
        >>> class Block(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, tap=no_tap):
        ...         return tap("hidden", nn.tanh(nn.Dense(4)(x)))
        >>> class Network(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, tap=no_tap):
        ...         return nn.Dense(2)(lift(nn.remat, Block(), tap)(x))
        >>> params = Network().init(jax.random.key(0), jnp.ones((1, 3)))
        >>> run(Network().apply, params, jnp.ones((5, 3)))[1]["hidden"].shape
        (5, 4)
    """

    def call(*arguments: Any, **kwargs: Any) -> Any:
        def body(module: Any, *inside: Any) -> Any:
            return module(*inside, **kwargs)

        return tap.lift(lambda function: transform(function, **settings), body)(module, *arguments)

    return call


def scan(
    module: nn.Module,
    tap: TapLike,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    **settings: Any,
) -> Callable[..., tuple[Any, Any]]:
    """Runs a tapped submodule under ``nn.scan``, over time steps or over layers.

    Args:
        module: a submodule whose ``__call__`` takes ``(carry, x, tap)`` and returns ``(carry, y)``,
            such as a recurrent cell with a readout, or a layer.
        tap: the tap of the module around it.
        in_axes: axes of x to scan over, as ``nn.scan`` takes them for one argument.
        out_axes: axes of y.
        settings: further arguments of ``nn.scan``. One module for all time steps takes
            ``variable_broadcast="params", split_rngs={"params": False}``; layers with separate
            parameters take ``variable_axes={"params": 0}, split_rngs={"params": True},
            length=depth``.

    Returns:
        A function ``(carry, xs=None, **kwargs) -> (carry, ys)`` whose keyword arguments are static.
        Values that are tapped inside have a leading axis of steps outside, as with `tap.scan`.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from nmnc_jax import no_tap, run
        >>> from nmnc_jax.linen import scan
        >>> class Cell(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, carry, x, tap=no_tap):
        ...         carry, y = nn.GRUCell(4)(carry, x)
        ...         return carry, nn.Dense(2)(tap("state", y))
        >>> class Network(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, tap=no_tap):
        ...         shared = {"variable_broadcast": "params", "split_rngs": {"params": False}}
        ...         scanned = scan(Cell(), tap, in_axes=1, out_axes=1, **shared)
        ...         return scanned(jnp.zeros((len(x), 4)), x)[1]
        >>> params = Network().init(jax.random.key(0), jnp.ones((1, 6, 3)))
        >>> outputs, activations = run(Network().apply, params, jnp.ones((5, 6, 3)))
        >>> outputs.shape, activations["state"].shape
        ((5, 6, 2), (6, 5, 4))
    """

    def call(carry: Any, xs: Any = None, **kwargs: Any) -> tuple[Any, Any]:
        def body(module: Any, carry: Any, x: Any, tap: TapLike) -> tuple[Any, Any]:
            return module(carry, x, tap, **kwargs)

        def transform(step: Callable[..., Any]) -> Callable[..., Any]:
            axes = {"in_axes": ((in_axes, 0),), "out_axes": (out_axes, 0)}
            return nn.scan(step, **axes, **settings)

        def look(step: Callable[..., Any]) -> Callable[..., Any]:
            # A copy is used, because a module keeps the values of an abstract evaluation.
            def looked(module: nn.Module, *arguments: Any) -> Any:
                copy, variables = module.unbind()
                assert module.scope is not None
                keys = {name: jax.random.key(0) for name in module.scope.rngs}
                run = nn.apply(lambda copy: transform(step)(copy, *arguments), copy, mutable=True)
                return run(variables, rngs=keys)[0]

            return looked

        return tap.lift_scan(transform, body, look)(module, carry, xs)

    return call
