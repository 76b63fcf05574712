"""The programs that take a training step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from nmnc_jax.readouts import READOUTS
from nmnc_jax.state import NoiseCorrelationState
from nmnc_jax.types import Due

SELDOM = 100
"""Steps between two runs of a program from which its time to compile outweighs its own."""


class StepPart(NamedTuple):
    """A program that takes a training step, or a part of one.

    Attributes:
        name: what the program does.
        due: the scheduled work that it does; None if it decides by the state's own step.
        function: ``function(state, key, batch, due) -> (state, loss)``, jitted; donates the state.
    """

    name: str
    due: Due | None
    function: Any


def step_parts(
    train_step: Callable[..., Any],
    move_bases: Callable[..., Any],
    *,
    apart: bool,
    out_shardings: Any,
    seldom: dict[str, float] | None,
) -> Callable[[Due | None], list[StepPart]]:
    """Makes the programs that take a step.

    Args:
        train_step: ``train_step(state, key, batch, due=None) -> (state, loss)``.
        move_bases: the same, of which only the bases and their feedback change.
        apart: whether bases move in a program of their own, as from `moves_apart`.
        out_shardings: shardings of state and loss.
        seldom: options for the compiler of programs that also move bases.

    Returns:
        ``parts(due)``, the programs that take a step with such scheduled work, one after another.
    """

    def jitted(function: Any, options: dict[str, float] | None) -> Any:
        return jax.jit(
            function,
            donate_argnums=0,
            static_argnames="due",
            out_shardings=out_shardings,
            compiler_options=options,
        )

    often, moving = jitted(train_step, None), jitted(train_step, seldom)
    alone = jitted(move_bases, seldom)

    def parts(due: Due | None) -> list[StepPart]:
        if due is None:
            return [StepPart("step", None, often)]
        if due.move and apart:
            before = StepPart("basis update", due._replace(probe=False), alone)
            return [before, *parts(due._replace(move=False))]
        work = {"probes": due.probe, "basis update": due.move}
        names = " and ".join(what for what, is_due in work.items() if is_due)
        name = f"step with {names}" if names else "step"
        return [StepPart(name, due, moving if due.move else often)]

    return parts


def moves_apart(state: Any) -> bool:
    """Returns whether bases move in a program of their own, before the step in which it is due.

    It compiles faster and takes less memory than a step that also moves bases. Not so where every
    step probes, because the program would probe too.

    Args:
        state: the estimator's state, or its shapes.
    """
    if not isinstance(state, NoiseCorrelationState):
        return False
    return not READOUTS[state.layout.readout].every_step
