"""The entry of a method in the table, with the ranges in which its settings are searched."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from experiments.methods.setting import Setting
from nmnc_jax import Estimator


class Range(NamedTuple):
    """The range in which a setting is searched, uniformly in its logarithm.

    Attributes:
        low: smallest value.
        high: largest value.
        whole: whether the value is a whole number.
        below_one: whether the setting is 1 minus the value.
    """

    low: float
    high: float
    whole: bool = False
    below_one: bool = False

    def at(self, place: float) -> float:
        """Returns the value at a relative position in [0, 1)."""
        value = self.low * (self.high / self.low) ** place
        if self.below_one:
            return round(1 - value, 3)
        return round(value) if self.whole else float(f"{value:.3g}")


RATE = {"learning_rate": Range(3e-4, 1e-2)}
LEARNED = {
    **RATE,
    "feedback_decay": Range(0.02, 0.5, below_one=True),
    "update_every": Range(1, 20, whole=True),
}
IN_MANIFOLD = {**LEARNED, "rank": Range(8, 256, whole=True)}
BY_OUTPUTS = ("derivative of the loss", "output error everywhere")
BY_LAYERS = ("derivative of the loss",)
BY_LOSS = ("loss of each example",)


class Entry(NamedTuple):
    """One method.

    Attributes:
        summary: description in a few words.
        build: function of a `Setting` that returns the estimator.
        cost: kind of cost of a step: "backprop", "weights" (pairs of passes), "local" (no probes),
            "learned" (probes when the feedback is due), "mirrored" (the response and the weight
            gradient of each layer separately) or "probed" (probes in every step).
        colour: colour in figures.
        readout: readout for `nmnc_jax.check_model`; "" if the method assumes nothing of the model.
        subspace: perturbed directions: "all", the "manifold", "random" ones or those of the exact
            "jacobian".
        recurrent: whether the method requires a recurrent network.
        space: name to range of the settings that are searched.
        needs: what the method requires of network and loss, besides the derivative of each stage.
        control: whether the method is only a control for experiments.
        loses: share of each weight that the optimiser removes in an update, if the method requires
            it.
    """

    summary: str
    build: Callable[[Setting], Estimator]
    cost: str
    colour: str
    readout: str | None = ""
    subspace: str = "all"
    recurrent: bool = False
    space: Mapping[str, Range] = RATE
    needs: tuple[str, ...] = ()
    control: bool = False
    loses: float = 0.0
