"""The library's methods, and the controls that only experiments use."""

from experiments.methods.choice import (
    build_estimator,
    check_method,
    checked,
    forward_passes,
    readout_of,
)
from experiments.methods.setting import Setting, with_mirrored_layers
from experiments.methods.table import COLOURS, METHODS, TABLE

__all__ = [
    "COLOURS",
    "METHODS",
    "TABLE",
    "Setting",
    "build_estimator",
    "check_method",
    "checked",
    "forward_passes",
    "readout_of",
    "with_mirrored_layers",
]
