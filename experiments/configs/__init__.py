"""Configurations, one short file per experiment; the docstring of a file holds its command."""

import importlib
import pkgutil

from experiments.configuration import Config
from experiments.errors import UserError


def config_names() -> list[str]:
    """Returns the names of the configurations."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_config(name: str) -> Config:
    """Loads one configuration by name.

    Raises:
        UserError: if there is no configuration of that name.
    """
    if name not in config_names():
        raise UserError(f"unknown config {name!r}; there are {', '.join(config_names())}")
    return importlib.import_module(f"experiments.configs.{name}").config
