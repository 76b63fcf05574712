"""The parts of an estimator, which are checked to fit together, and when each is due."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.core import Tracer

from nmnc_jax.checks import check_count, check_kind, check_precision, named_leaves
from nmnc_jax.dependence import narrowest_after
from nmnc_jax.feedback import Feedback
from nmnc_jax.layout import Layout, Nodes
from nmnc_jax.model_check import Choice, choices_of
from nmnc_jax.probes import Probe
from nmnc_jax.readouts import READOUTS, Readout
from nmnc_jax.schedule import check_due, due_at
from nmnc_jax.subspace import Subspace
from nmnc_jax.taps import Tap
from nmnc_jax.types import Due


class Composition(NamedTuple):
    """The parts of one estimator.

    Attributes:
        subspace: the subspace of the method.
        readouts: names of the readouts among which the model's marks decide.
        probe: the perturbations.
        feedback: the feedback of the method, or None.
        own: the method's part of the layout of a state.
    """

    subspace: Subspace
    readouts: tuple[str, ...]
    probe: Probe
    feedback: Feedback | None
    own: Layout

    @property
    def first(self) -> Readout:
        """The first of the readouts."""
        return READOUTS[self.readouts[0]]

    @property
    def learns(self) -> bool:
        """Whether the feedback is learned."""
        return self.feedback is not None and self.feedback.update is not None

    @property
    def follows(self) -> bool:
        """Whether the feedback follows the weights of linear stages."""
        return self.feedback is not None and self.feedback.follow is not None

    def scheduled(self, step: Any, due: Due | None = None) -> tuple[Any, Any]:
        """Returns whether bases move, and whether the feedback is measured."""
        move_every = None if self.subspace.update is None else self.subspace.update_every
        learned = self.feedback if self.learns else None
        probe_every = None if learned is None else learned.update_every
        if due is not None:
            due = check_due(due)
            return due.move and move_every is not None, due.probe and probe_every is not None
        return due_at(step, move_every, first=False), due_at(step, probe_every, first=True)

    def schedule(self, step: int) -> Due:
        """Returns what a step has to do."""
        if isinstance(step, Tracer):
            raise ValueError(
                "step is traced; due takes the number of a step outside jax.jit. Inside, call "
                "estimate without due"
            )
        if int(step) < 0:
            raise ValueError(f"step is {step}; it takes a number of at least 0")
        move, measure = self.scheduled(int(step))
        return Due(probe=bool(measure) or self.first.every_step, move=bool(move))

    def check_passes(self, nodes: Nodes, forward: Callable[[Tap], Any]) -> None:
        """Checks that the arithmetic of the model is fine enough for the probes' differences."""
        probes = (self.learns or self.first.every_step) and self.first.factored
        if probes and self.probe.difference != "jvp":
            arrays: dict[str, Any] = {f"tap {n!r}": shape for n, shape in nodes.taps.items()}
            arrays |= {f"the output{place}": leaf for place, leaf in named_leaves(nodes.outputs)}
            noise = {name: nodes.arrived[name] for name in nodes.taps}
            traced = jax.make_jaxpr(lambda noise: forward(Tap(noise)))(noise)
            arrays["a value behind a tap"] = narrowest_after(traced, frozenset(range(len(noise))))
            check_precision(str(self.probe.difference), arrays)


def composed(
    *,
    subspace: Subspace,
    readout: Choice,
    probe: Probe,
    feedback: Feedback | None,
    horizon: int | None,
    has_aux: bool,
) -> Composition:
    """Composes the parts that `noise_correlation` is given.

    Raises:
        ValueError: if readout, probe, feedback and horizon do not fit together.
    """
    check_kind("subspace", subspace, Subspace)
    if feedback is not None:
        check_kind("feedback", feedback, Feedback)
    allowed = choices_of(readout)
    if not set(allowed) <= set(READOUTS):
        takes = ", ".join(map(repr, READOUTS))
        raise ValueError(f"readout is {readout!r}; it takes {takes} or None")
    first = READOUTS[allowed[0]]
    if feedback is None and first.needs_feedback:
        raise ValueError(f"feedback is None; readout {readout!r} takes a feedback")
    follows = feedback is not None and feedback.follow is not None
    if follows and any(READOUTS[name].factored for name in allowed):
        raise ValueError(
            f"readout is {readout!r}; a feedback that follows the weights of linear stages takes "
            "'mirror'"
        )
    for field, refused in (("rows", first.every_step), ("perturbed", not first.factored)):
        got = getattr(probe, field)
        if (refused or first.every_step) and got is not None:
            raise ValueError(f"probe.{field} is {got}; readout {readout!r} takes None")
    if first.factored:
        probe.count()
    if horizon is not None:
        check_count("horizon", horizon)
        if first.isolated:
            raise ValueError(f"horizon is {horizon}; readout {readout!r} takes None")
    learned = None if feedback is None else feedback.update is not None
    own = Layout(subspace.name, "", horizon, has_aux, learned)
    return Composition(subspace, allowed, probe, feedback, own)
