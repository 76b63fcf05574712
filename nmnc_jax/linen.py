"""Taps for Flax Linen models that have none in their source."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn

from nmnc_jax.taps import TapLike, no_tap
from nmnc_jax.types import ApplyFn, Array, Inputs, Params


def tap_submodules(apply: Callable[[Params, Inputs], Array], names: Sequence[str]) -> ApplyFn:
    """Taps the output of named submodules of a Linen model, from outside.

    Args:
        apply: ``apply(params, inputs) -> outputs``, which calls ``module.apply`` with whatever else
            the model takes (frozen batch statistics, ``train=False``).
        names: paths of the submodules, as in their parameters: ``"block1/conv"``. What a module's
            ``__call__`` returns is tapped, under that name.

    Returns:
        ``apply_fn(params, inputs, tap) -> outputs``, as every estimator takes it.

    Raises:
        ValueError: if `names` is empty; (when applied) if the model calls no submodule of a name,
            calls one twice, or one does not return an array.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from nmnc_jax import run
        >>> from nmnc_jax.linen import tap_submodules
        >>> model = nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(2)])
        >>> params = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> apply_fn = tap_submodules(model.apply, ["layers_0"])
        >>> run(apply_fn, params, jnp.ones((5, 3)))[1]["layers_0"].shape
        (5, 4)
    """
    if not names:
        raise ValueError("names is empty; it takes at least one submodule's path")

    def apply_fn(params: Params, inputs: Inputs, tap: TapLike = no_tap) -> Array:
        seen: list[str] = []

        def interceptor(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            result = call(*args, **kwargs)
            name = "/".join(context.module.path)
            if context.method_name != "__call__" or not name:
                return result
            seen.append(name)
            if name not in names:
                return result
            if not hasattr(result, "dtype"):
                raise ValueError(
                    f"submodule {name!r} returns {type(result).__name__}; a tap takes an array"
                )
            return tap(name, result)

        with nn.intercept_methods(interceptor):
            outputs = apply(params, inputs)
        missing = sorted(set(names) - set(seen))
        if missing:
            raise ValueError(f"names has {missing}; the model calls {sorted(set(seen))}")
        return outputs

    return apply_fn


def lift(
    transform: Callable[..., Any], module: nn.Module, tap: TapLike, **settings: Any
) -> Callable[..., Any]:
    """Calls a tapped submodule under one of Linen's transformations, such as ``nn.remat``.

    Args:
        transform: ``nn.remat``, ``nn.checkpoint`` or ``nn.jit``.
        module: a submodule whose ``__call__`` takes a tap last.
        tap: of the module around it.
        settings: passed to `transform`.

    Returns:
        A function of the arguments before the tap, and of static keyword arguments.

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
