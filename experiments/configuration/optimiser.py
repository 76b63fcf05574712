"""The section `Optimiser` of a configuration."""

import dataclasses
from typing import Literal

from experiments.configuration.section import Section

OPTIMISERS = (
    *("adabelief", "adafactor", "adagrad", "adam", "adamw", "lamb", "lars", "lion", "nadam"),
    *("nadamw", "novograd", "radam", "rmsprop", "sgd", "yogi"),
)
"""Optimisers of Optax by name."""


@dataclasses.dataclass(frozen=True)
class Optimiser(Section):
    """The optimiser."""

    optimiser: str = "adam"
    """Name of the optimiser in Optax: adam, adamw, sgd, lars, lamb, lion and others."""
    optimiser_settings: tuple[str, ...] = ()
    """Further arguments of the optimiser, each as NAME=VALUE: momentum=0.9 nesterov=True."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    """Schedule of the learning rate after its peak: "cosine" decays to zero, "steps" divides by ten
    after 1/3, 2/3 and 8/9 of the updates."""
    warmup: int = 0
    """Number of updates in which the learning rate rises to its peak."""
    weight_decay: float = 0.0
    """Weight decay of all parameters except biases and those of normalisations. Optimisers with an
    argument for it (adamw, lamb, lars, lion ...) are given it; for others it is added to the
    gradient."""
    clip_norm: float | None = None
    """Norm to which larger gradients are scaled; by default none are."""
    label_smoothing: float = 0.0
    """Share of each training label that is spread over all classes."""
    average: float | None = None
    """Decay of a moving average of the parameters, which is tested and saved in their place."""
    accumulate: int = 1
    """Number of steps whose gradients are averaged for one update of the parameters."""

    @property
    def name(self) -> str:
        """Name of the optimiser in Optax."""
        return self.optimiser

    def __post_init__(self) -> None:
        """Checks the range of each field.

        Raises:
            UserError: if a field is out of range.
        """
        infinity = float("inf")
        self.require("optimiser", self.optimiser in OPTIMISERS, f"one of {', '.join(OPTIMISERS)}")
        self.positive("learning_rate")
        self.counts("accumulate")
        self.require("warmup", self.warmup >= 0, "0 or more")
        self.require("weight_decay", 0 <= self.weight_decay < infinity, "0 or a positive number")
        if self.clip_norm is not None:
            self.require(
                "clip_norm", 0 < self.clip_norm < infinity, "a positive number, or nothing"
            )
        fits = 0 <= self.label_smoothing < 1
        self.require("label_smoothing", fits, "a number from 0 to below 1")
        if self.average is not None:
            fits = 0 < self.average < 1
            self.require("average", fits, "a number between 0 and 1, or nothing")
