"""One short file per experiment; its docstring holds the command and what came out."""

import importlib
import pkgutil

from experiments.configuration import Config
from experiments.errors import UserError


def config_names() -> list[str]:
    """Lists the configurations that are shipped."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_config(name: str) -> Config:
    """Loads one configuration by name.

    Raises:
        UserError: if there is none of that name.
    """
    if name not in config_names():
        raise UserError(f"unknown config {name!r}; there are {', '.join(config_names())}")
    return importlib.import_module(f"experiments.configs.{name}").config
