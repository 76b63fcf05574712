"""What is known of a method, and where its settings are searched."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from experiments.methods.setting import Setting
from nmnc_jax import Estimator


class Range(NamedTuple):
    """Where a setting is searched, evenly in logarithms.

    Attributes:
        low: the least.
        high: the greatest.
        whole: whether it is a whole number.
        below_one: whether it is what the setting is short of 1.
    """

    low: float
    high: float
    whole: bool = False
    below_one: bool = False

    def at(self, place: float) -> float:
        """Returns the value at a place in [0, 1)."""
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
        summary: what it is, in a few words.
        build: makes its estimator.
        cost: what a step costs: "backprop", "weights" (pairs of passes), "local" (no probes),
            "learned" (probes when the feedback is due), "mirrored" (of each layer by itself, its
            response and its weights' gradient) or "probed" (probes in every step).
        colour: in figures.
        readout: as `nmnc_jax.check_model` takes it; "" where nothing is assumed of the model.
        subspace: what is perturbed: "all" directions, the "manifold", "random" ones or those of the
            exact "jacobian".
        recurrent: whether it takes a recurrent network.
        space: its settings, and where they are searched.
        needs: what it takes of the network and the loss, beside the derivative of each stage.
        control: whether only experiments use it.
        loses: share of itself that each weight loses in an update of the optimiser, where the
            method takes that of it.
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
