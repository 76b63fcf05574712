"""What one step moves, measures and learns."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nmnc_jax.correlate import correlations
from nmnc_jax.credit import LocalPass, reading_of
from nmnc_jax.layout import Nodes, trace_nodes
from nmnc_jax.noise_correlation.composition import Composition
from nmnc_jax.probes import coordinate_size, relative_variance, resolved, some_examples
from nmnc_jax.readouts import Found, Reading, Readout
from nmnc_jax.state import NoiseCorrelationState, move_subspaces
from nmnc_jax.taps import Model, Tap
from nmnc_jax.types import Array, Inputs, LossFn, Params


class Step(NamedTuple):
    """One step after its clean pass.

    Attributes:
        parts: the parts of the estimator.
        readout: the readout of the state.
        loss_fn: the loss of each example.
        model: the model.
        params: the model's parameters.
        inputs: the model's inputs.
        targets: the targets that `loss_fn` takes.
        nodes: the nodes of the model, whose taps are the places where noise is added.
        clean: the clean pass.
        error: the output error.
        rows: name of a place to its activity as a matrix, [B T, n].
    """

    parts: Composition
    readout: Readout
    loss_fn: LossFn
    model: Model
    params: Params
    inputs: Inputs
    targets: Any
    nodes: Nodes
    clean: LocalPass
    error: Any
    rows: dict[str, Array]

    def reading(self, state: NoiseCorrelationState) -> Reading:
        """Returns what the readout is given on the whole batch."""
        return reading_of(
            state,
            self.nodes,
            self.loss_fn,
            self.targets,
            learns=self.parts.learns,
            error=self.error,
        )

    def move(self, state: NoiseCorrelationState) -> NoiseCorrelationState:
        """Moves the bases with the activity."""
        return move_subspaces(self.parts.subspace, state, self.rows)

    def measure(self, key: Array, state: NoiseCorrelationState) -> dict[str, Found]:
        """Runs the probe passes; returns what they found at each place."""
        probe, nodes, rows, readout = self.parts.probe, self.nodes, self.rows, self.readout
        pass_key, examples = key, (self.inputs, self.targets, self.clean.arrived, rows)
        if probe.rows is not None:
            rows_key, pass_key = jax.random.split(key)
            examples = some_examples(rows_key, probe.rows, nodes, examples)
        some_inputs, some_targets, arrived, activity = examples
        some = nodes
        if probe.rows is not None:
            some = readout.places(
                trace_nodes(self.model, self.params, some_inputs), list(nodes.taps)
            )
        reading = reading_of(
            state, some, self.loss_fn, some_targets, learns=self.parts.learns, error=self.error
        )

        def forward(tap: Tap) -> Any:
            return self.model(self.params, some_inputs, tap)

        if readout.change is None:
            scales = {n: coordinate_size(rows[n], reading.bases[n]) for n in rows}
            change = None
        else:
            scales = {name: jnp.ones((), rows[name].dtype) for name in rows}
            change = readout.change(reading, forward)
        return correlations(
            lambda tap: readout.response(reading, tap, forward(tap)),
            lambda name, z, dy: readout.correlate(reading, name, z, dy),
            key=pass_key,
            probe=resolved(probe, state.layout, some.taps),
            clean=arrived,
            shapes=some.taps,
            bases=reading.bases,
            scales=scales,
            pooled=readout.pooled,
            isolated=readout.isolated,
            activity=activity,
            change=change,
        )

    def learn(self, state: NoiseCorrelationState, found: dict[str, Found]) -> NoiseCorrelationState:
        """Updates the feedback by what the probes found."""
        probe, feedback, nodes = self.parts.probe, self.parts.feedback, self.nodes
        assert feedback is not None
        assert feedback.update is not None
        new = {}
        shapes = {n: s.of_batch(probe.rows or s.batch) for n, s in nodes.taps.items()}
        used = resolved(probe, state.layout, shapes)
        for tap in state.layout.taps:
            shape = shapes[tap.name]
            variance = relative_variance(
                used.at(tap.name),
                examples=shape.batch * tap.shared,
                steps=shape.steps,
                dimension=tap.directions,
                taps=len(nodes.taps),
                isolated=self.readout.isolated,
            )
            old = state.feedback[tap.name]
            new[tap.name] = feedback.update(old, found[tap.name].estimate, variance)
        return state._replace(feedback=new)
