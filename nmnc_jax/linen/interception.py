"""Taps and marks at the calls of a model's submodules."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from nmnc_jax.taps import TapLike, no_tap
from nmnc_jax.types import ApplyFn, Array, Inputs, Params


def tap_submodules(apply: Callable[[Params, Inputs], Array], names: Sequence[str]) -> ApplyFn:
    """Taps the outputs of named submodules of a Linen model.

    Args:
        apply: ``apply(params, inputs) -> outputs``, which calls ``module.apply`` with the model's
            other arguments (frozen batch statistics, ``train=False``).
        names: paths of the submodules, as in the parameters: ``"block1/conv"``. The value that a
            submodule's ``__call__`` returns is tapped under its path.

    Returns:
        ``apply_fn(params, inputs, tap) -> outputs``, as every estimator takes it.

    Raises:
        ValueError: if `names` is empty; (when applied) if the model does not call a named
            submodule, calls it twice, or if it does not return an array.

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


LINEAR = (nn.Dense, nn.DenseGeneral, nn.Conv, nn.ConvLocal, nn.ConvTranspose, nn.Einsum)
"""Linen's layers that are linear in their kernel and their input, apart from a bias."""


def mirror_layers(apply: Callable[..., Any]) -> ApplyFn:
    """Marks every linear layer of a Linen model for the readout `mirror`.

    Linear layers are dense layers, convolutions of all kinds and ``Einsum``, including the
    projections of attention. The product with a layer's kernel is a stage; its bias and everything
    else is differentiated exactly. A stage is named by the path of its kernel in the parameters:
    ``"block1/conv/kernel"``. The second call of a layer is named ``"block1/conv/kernel:2"``.

    Args:
        apply: ``apply(params, inputs, **kwargs) -> outputs``, which calls ``module.apply`` with the
            model's other arguments.

    Returns:
        ``apply_fn(params, inputs, tap, **kwargs) -> outputs``, as every estimator takes it.

    Raises:
        ValueError: (when applied) if the model calls no linear layer, or calls one inside a
            transformation that does not go through the tap.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from nmnc_jax import weight_mirror
        >>> from nmnc_jax.linen import mirror_layers
        >>> model = nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(2)])
        >>> params = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> squared_error = lambda outputs, targets: ((outputs - targets) ** 2).sum(-1)
        >>> estimator = weight_mirror(mirror_layers(model.apply), squared_error)
        >>> state = estimator.init(params, (jnp.ones((5, 3)), jnp.zeros((5, 2))))
        >>> state.feedback["layers_2/kernel"].coordinates.shape
        (4, 2)
    """

    def apply_fn(params: Params, inputs: Inputs, tap: TapLike = no_tap, **kwargs: Any) -> Any:
        calls: Counter[str] = Counter()

        def interceptor(call: Callable[..., Any], args: Any, settings: Any, context: Any) -> Any:
            module = context.module
            is_layer = context.method_name == "__call__" and isinstance(module, LINEAR)
            if not is_layer or not module.path:
                return call(*args, **settings)
            variables = nn.meta.unbox(module.variables["params"])
            path = "/".join((*module.path, "kernel"))
            calls[path] += 1
            name = path if calls[path] == 1 else f"{path}:{calls[path]}"
            alone = module.clone(parent=None, name=None, use_bias=False)
            activation, *others = args

            def stage(kernel: Array, activation: Array) -> Any:
                kernel_alone = {"params": {"kernel": kernel}}
                # The copy has no path, so that the interceptor does not mark it again.
                return alone.apply(kernel_alone, activation, *others, **settings)

            positions = _positions(module, activation)
            value = tap.linear(
                stage, variables["kernel"], activation, name=name, time_axes=positions
            )
            if "bias" not in variables:
                return value
            bias = variables["bias"].astype(value.dtype)
            if isinstance(module, nn.Einsum) or value.shape[value.ndim - bias.ndim :] != bias.shape:
                raise ValueError(
                    f"{path!r} belongs to a {type(module).__name__} whose bias of shape "
                    f"{bias.shape} is not along its last axes; mirror_layers takes it with "
                    "use_bias=False"
                )
            return value + bias.reshape((1,) * (value.ndim - bias.ndim) + bias.shape)

        with nn.intercept_methods(interceptor):
            outputs = apply(params, inputs, **kwargs)
        if not calls:
            raise ValueError(
                "the model calls no linear layer of Linen; mirror_layers takes a model with at "
                "least one"
            )
        return outputs

    return apply_fn


def _positions(module: nn.Module, activation: Array) -> int:
    """Counts the axes between that of examples and those that a dense layer sums over."""
    axes: Any = (-1,) if isinstance(module, nn.Dense) else getattr(module, "axis", ())
    axes = tuple(axis % activation.ndim for axis in np.ravel(axes).astype(int))
    first = activation.ndim - len(axes)
    last = tuple(range(first, activation.ndim))
    return max(first - 1, 0) if axes and sorted(axes) == list(last) else 0
