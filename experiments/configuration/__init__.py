"""The configuration of a run, in sections, and how it is stored with the results."""

from experiments.configuration.config import Config
from experiments.configuration.data import DATA_DIR, Data
from experiments.configuration.method import Method
from experiments.configuration.model import Model
from experiments.configuration.optimiser import OPTIMISERS, Optimiser
from experiments.configuration.run import Run
from experiments.configuration.stored import read_config, same_config, write_config

__all__ = [
    "DATA_DIR",
    "OPTIMISERS",
    "Config",
    "Data",
    "Method",
    "Model",
    "Optimiser",
    "Run",
    "read_config",
    "same_config",
    "write_config",
]
