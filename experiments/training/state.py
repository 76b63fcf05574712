"""What a run remembers from step to step."""

from typing import Any, NamedTuple


class TrainState(NamedTuple):
    """Everything that a step changes.

    Attributes:
        params: parameters that are trained.
        optimiser: state of the optimiser.
        estimator: state of the method.
        average: moving average of the parameters, where one is kept.
    """

    params: Any
    optimiser: Any
    estimator: Any
    average: Any = None

    @property
    def network(self) -> Any:
        """Parameters that are tested and saved."""
        return self.params if self.average is None else self.average
