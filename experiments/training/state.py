"""The state of a run between steps."""

from typing import Any, NamedTuple


class TrainState(NamedTuple):
    """Everything that a step changes.

    Attributes:
        params: the trained parameters.
        optimiser: state of the optimiser.
        estimator: state of the method.
        average: moving average of the parameters, or None.
    """

    params: Any
    optimiser: Any
    estimator: Any
    average: Any = None

    @property
    def network(self) -> Any:
        """The parameters that are tested and saved."""
        return self.params if self.average is None else self.average
