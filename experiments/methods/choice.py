"""The method that a configuration names: whether it fits, how it is built, what it costs."""

from experiments.configuration import Config
from experiments.errors import UserError
from experiments.methods.setting import Setting
from experiments.methods.table import METHODS, TABLE
from nmnc_jax import Estimator

ALIASES = {"direct_feedback_alignment": "dfa"}


def check_method(name: str) -> str:
    """Returns a method's name as listed.

    Raises:
        UserError: if there is none of that name.
    """
    name = ALIASES.get(name, name)
    if name not in TABLE:
        raise UserError(f"unknown estimator {name!r}; there are {', '.join(METHODS)}")
    return name


def checked(config: Config) -> Config:
    """Returns a configuration whose network and method fit, with the method's name as listed.

    Raises:
        UserError: naming the method and what it takes.
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
            f"estimator is {name!r}, which takes one Jacobian for all time; {model.name} has one "
            "for each pair of time steps"
        )
    return config.replace(estimator=name)


def readout_of(config: Config) -> str | None:
    """The readout with which a method's model is to be checked; "" where it needs no check."""
    return TABLE[check_method(config.method.estimator)].readout


def build_estimator(setting: Setting) -> Estimator:
    """Builds the estimator that a configuration describes."""
    return TABLE[check_method(setting.config.method.estimator)].build(setting)


def forward_passes(config: Config, taps: int) -> float:
    """Passes of one step: backward ones to activity or weights, and each probe's, count as one.

    What a control is given of the exact Jacobian costs it nothing here.
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
