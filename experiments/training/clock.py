"""The time of a step."""

import time
from collections.abc import Callable, Collection, Hashable
from typing import TypeVar

import jax

Result = TypeVar("Result")


class StepClock:
    """Times steps between two measurements, without those that compile a program.

    Example:
        >>> import jax.numpy as jnp
        >>> from experiments.training.clock import StepClock
        >>> clock = StepClock()
        >>> for _ in range(3):
        ...     total = clock.step(["add"], lambda: jnp.ones(3).sum(), before=None)
        >>> 0 < clock.seconds() < 1
        True
    """

    def __init__(self) -> None:
        self._known: set[Hashable] = set()
        self.restart()

    def restart(self) -> None:
        """Begins a new interval."""
        self._steps, self._start = 0, time.perf_counter()

    def step(
        self, programs: Collection[Hashable], take: Callable[[], Result], before: object
    ) -> Result:
        """Takes a step.

        Args:
            programs: the programs that it runs.
            take: function that takes the step.
            before: arrays of earlier steps, which may still be computed.
        """
        if self._known.issuperset(programs):
            self._steps += 1
            return take()
        jax.block_until_ready(before)
        start = time.perf_counter()
        result = jax.block_until_ready(take())
        end = time.perf_counter()
        # The interval is as much shorter, or begins after this step.
        self._start = self._start + end - start if self._steps else end
        self._known.update(programs)
        return result

    def seconds(self) -> float | None:
        """Returns the seconds of a step in this interval; None if each compiled a program."""
        return (time.perf_counter() - self._start) / self._steps if self._steps else None
