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
    """How parameters follow gradients."""

    optimiser: str = "adam"
    """Optimiser, by its name in Optax: adam, adamw, sgd, lars, lamb, lion and others."""
    optimiser_settings: tuple[str, ...] = ()
    """Its other arguments, each as NAME=VALUE: momentum=0.9 nesterov=True."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    """How the learning rate goes on from its peak: to zero by a cosine, divided by ten after 1/3,
    2/3 and 8/9 of the updates, or not at all."""
    warmup: int = 0
    """Updates in which the learning rate rises to its peak."""
    weight_decay: float = 0.0
    """Weight decay of all parameters but biases and those of norms: the optimiser's own (adamw,
    lamb, lars, lion ...), or added to the gradient."""
    clip_norm: float | None = None
    """Norm to which a larger gradient is scaled; without, none is."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes, in training."""
    average: float | None = None
    """Decay of a moving average of the parameters, which is tested and saved in their place."""
    accumulate: int = 1
    """Steps whose gradients are averaged for one update of the parameters."""

    @property
    def name(self) -> str:
        """In Optax."""
        return self.optimiser

    def __post_init__(self) -> None:
        """Refuses what no optimiser takes.

        Raises:
            UserError: naming the field, what it got and what it takes.
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
