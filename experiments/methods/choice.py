"""Checks, builds and costs the method that a configuration names."""

from experiments.configuration import Config
from experiments.errors import UserError
from experiments.methods.setting import Setting
from experiments.methods.table import METHODS, TABLE
from nmnc_jax import Estimator

ALIASES = {"direct_feedback_alignment": "dfa"}


def check_method(name: str) -> str:
    """Returns a method's name in the table.

    Raises:
        UserError: if the table has no such method.
    """
    name = ALIASES.get(name, name)
    if name not in TABLE:
        raise UserError(f"unknown estimator {name!r}; there are {', '.join(METHODS)}")
    return name


def checked(config: Config) -> Config:
    """Checks that network and method fit, and returns the configuration with the method's name.

    Raises:
        UserError: if the method does not take the network.
    """
    name, model = check_method(config.method.estimator), config.model
    entry = TABLE[name]
    if entry.recurrent and not model.is_recurrent:
        raise UserError(f"estimator is {name!r}; {model.name} has no recurrent weights")
    if entry.readout == "mirror" and model.is_recurrent:
        raise UserError(
            f"estimator is {name!r}, which mirrors layers of Linen; {model.name} takes "
            "weight_mirror"
        )
    if entry.subspace == "jacobian" and (model.is_recurrent or model.name == "transformer"):
        raise UserError(
            f"estimator is {name!r}, which takes one Jacobian for all time steps; {model.name} has "
            "one for each pair of time steps"
        )
    return config.replace(estimator=name)


def readout_of(config: Config) -> str | None:
    """Returns the readout with which the model is checked; "" if it needs no check."""
    return TABLE[check_method(config.method.estimator)].readout


def build_estimator(setting: Setting) -> Estimator:
    """Builds the estimator that a configuration describes."""
    return TABLE[check_method(setting.config.method.estimator)].build(setting)


def forward_passes(config: Config, taps: int) -> float:
    """Returns the number of passes of one step.

    A backward pass to activity, a backward pass to weights and the pass of a probe count as one
    each. The exact Jacobian that some controls use is not counted.
    """
    cost = TABLE[check_method(config.method.estimator)].cost
    if cost in ("backprop", "local", "weights"):
        return {"backprop": 3, "local": 2, "weights": 2 * config.method.least_probes}[cost]
    if cost == "mirrored":
        return 3 + 2 * config.method.least_probes / config.method.update_every
    passes_of = {"jvp": 1, "forward": 1, "central": 2}[config.method.difference]
    together = 1 if config.method.scope == "all_taps" else taps
    every = config.method.update_every if cost == "learned" else 1
    return 2 + passes_of * together * config.method.least_probes / every
