"""The optimiser of a run, which is an optimiser of Optax with clipping, decay and a schedule."""

import ast
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.configuration import Config, Optimiser
from experiments.data import Dataset
from experiments.data.dataset import class_loss
from experiments.errors import UserError, in_one_line
from experiments.methods import TABLE
from nmnc_jax.types import Array, LossFn, Params

DROPS = (1 / 3, 2 / 3, 8 / 9)
"""Shares of the updates after which the schedule "steps" divides the learning rate by ten."""


def build_optimiser(config: Config) -> optax.GradientTransformation:
    """Builds the optimiser that a configuration describes.

    Weight decay applies to parameters with at least two axes that are not named "bias", and so not
    to biases and the parameters of normalisations. An optimiser with an argument for weight decay
    is given it; for others it is added to the gradient. If the method requires it, weights also
    lose a constant share in each update.

    Raises:
        UserError: if the function of Optax does not take a setting.
    """
    chosen = config.optimiser
    make = getattr(optax, chosen.name)
    takes = inspect.signature(make).parameters
    settings = _settings(chosen, list(takes))
    before, after = [], []
    lost = TABLE[config.method.estimator].loses
    if lost:
        after.append(optax.add_decayed_weights(-lost, mask=_decays))
    if chosen.clip_norm is not None:
        before.append(optax.clip_by_global_norm(chosen.clip_norm))
    masks = [name for name in ("mask", "weight_decay_mask") if name in takes]
    if "weight_decay" in takes and masks:
        # Also where it is 0, because Optax's default may be another number.
        settings |= {"weight_decay": chosen.weight_decay, masks[0]: _decays}
    elif chosen.weight_decay:
        before.append(optax.add_decayed_weights(chosen.weight_decay, mask=_decays))
    try:
        whole = optax.chain(*before, make(learning_rate_of(config), **settings), *after)
        # Some settings are only read when the optimiser is given gradients.
        sample = {"weights": jnp.ones((2, 2))}
        jax.eval_shape(lambda p: whole.update(p, whole.init(p), p), sample)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"optimiser_settings is {chosen.optimiser_settings}, which optax.{chosen.name} "
            f"refuses: {in_one_line(error)}"
        ) from error
    if chosen.accumulate == 1:
        return whole
    return optax.MultiSteps(whole, chosen.accumulate).gradient_transformation()


def learning_rate_of(config: Config) -> optax.Schedule:
    """Returns the learning rate by update: a linear warm-up to its peak, then the schedule.

    Raises:
        UserError: if the run makes no update, or if the warm-up is as long as the run.
    """
    chosen = config.optimiser
    updates, peak = config.run.steps // chosen.accumulate, chosen.learning_rate
    if not updates:
        chosen.refuse("accumulate", f"it takes at most the {config.run.steps} steps of the run")
    after = updates - chosen.warmup
    if after < 1:
        raise UserError(f"warmup is {chosen.warmup}; it takes fewer than the {updates} updates")
    schedules: dict[str, Callable[[], optax.Schedule]] = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, after),
        "steps": lambda: optax.piecewise_constant_schedule(
            peak, {round(share * updates) - chosen.warmup: 0.1 for share in DROPS}
        ),
    }
    schedule = schedules[chosen.schedule]()
    if not chosen.warmup:
        return schedule
    rising = optax.linear_schedule(0.0, peak, chosen.warmup)
    return optax.join_schedules([rising, schedule], [chosen.warmup])


def training_loss(config: Config, data: Dataset) -> LossFn:
    """Returns the loss for training, which is that of the data set with optional label smoothing.

    Raises:
        UserError: if labels are to be smoothed and the data set has no classes.
    """
    smoothing = config.optimiser.label_smoothing
    if not smoothing:
        return data.loss
    if data.loss is not class_loss:
        raise UserError(
            f"label_smoothing is {smoothing}; {config.data.name} has no classes and takes 0"
        )

    def smoothed(outputs: Array, targets: Array) -> Array:
        labels = jax.nn.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
        return optax.softmax_cross_entropy(outputs, optax.smooth_labels(labels, smoothing))

    return smoothed


def _decays(params: Params) -> Any:
    """Returns whether each parameter decays; the biases of attention have an axis of heads."""

    def decays(path: Any, leaf: Array) -> bool:
        return leaf.ndim > 1 and jax.tree_util.keystr(path[-1:], simple=True) != "bias"

    return jax.tree.map_with_path(decays, params)


def _settings(chosen: Optimiser, takes: list[str]) -> dict[str, Any]:
    """Reads ``NAME=VALUE`` for each argument of Optax's function that has no field here."""
    settings = {}
    own = ("learning_rate", "weight_decay", "mask", "weight_decay_mask")
    free = [name for name in takes if name not in own]
    for setting in chosen.optimiser_settings:
        name, _, value = setting.partition("=")
        if name not in free:
            raise UserError(
                f"optimiser_settings has {setting!r}; optax.{chosen.name} takes "
                f"NAME=VALUE of {', '.join(free)}"
            )
        try:
            settings[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError):
            settings[name] = None
        if not isinstance(settings[name], int | float):
            raise UserError(
                f"optimiser_settings has {setting!r}; its value takes a number, True or False"
            )
    return settings
