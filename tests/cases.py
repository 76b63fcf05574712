"""Networks, losses and estimators that many tests share."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import nmnc_jax
from experiments.configuration import Config
from nmnc_jax import Probe
from nmnc_jax.models import GRU, MLP, ConvNet, LeakyRNN

JVP = Probe(num=2, difference="jvp")


class Case(NamedTuple):
    apply_fn: Any
    params: Any
    batch: Any


def squared_error(outputs, targets):
    """Of each example, or of each of its time steps."""
    return ((outputs - targets) ** 2).sum(-1)


def linear_loss(outputs, targets):
    """A loss whose gradient with respect to the outputs is the targets."""
    return (outputs * targets).sum(-1)


def linear_network(params, inputs, tap):
    """Two taps and linear responses; the Jacobian does not depend on the example."""
    first = tap("first", inputs @ params["in"])
    second = tap("second", first @ params["middle"])
    return second @ params["out"]


def residual_network(params, inputs, tap):
    x = jnp.tanh(inputs @ params["in"])
    for block in range(2):
        x = tap(f"block{block}", x + jnp.tanh(x @ params[f"block{block}"]))
    return x @ params["out"]


def shared_network(params, inputs, tap):
    x = inputs @ params["in"]
    for turn in range(3):
        x = tap(f"turn{turn}", jnp.tanh(x @ params["shared"]))
    return x @ params["out"]


def scanned_network(params, inputs, tap):
    """A recurrent network over four steps, tapped inside the scan."""

    def body(hidden, x, tap):
        hidden = tap("hidden", jnp.tanh(hidden @ params["recurrent"] + x @ params["in"]))
        return hidden, None

    sequence = jnp.stack([inputs, 0.5 * inputs, -inputs, inputs**2])
    hidden = jnp.zeros((len(inputs), params["recurrent"].shape[0]))
    hidden, _ = tap.scan(body, hidden, sequence)
    return tap("last", jnp.sin(hidden)) @ params["out"]


class ResidualConv(nn.Module):
    """Strided convolution, GroupNorm and a residual convolution."""

    @nn.compact
    def __call__(self, inputs, tap=nmnc_jax.no_tap):
        x = tap("stem", nn.relu(nn.Conv(8, (3, 3), strides=2)(inputs)))
        y = nn.relu(nn.GroupNorm(4)(nn.Conv(8, (3, 3))(x)))
        x = tap("residual", x + y)
        return nn.Dense(3)(x.reshape(len(x), -1))


def weights(key, **shapes):
    random = np.random.default_rng(key)
    return {name: normal(random, shape) / np.sqrt(shape[0]) for name, shape in shapes.items()}


def normal(random, shape):
    """Drawn by NumPy: JAX would compile a program for each shape."""
    return jnp.asarray(random.standard_normal(shape, np.float32))


def batch_of(shape, outputs=3, seed=7):
    random = np.random.default_rng(seed)
    return normal(random, shape), normal(random, (shape[0], outputs))


def linear_case(batch=4, units=6, outputs=3):
    params = weights(1, **{"in": (5, units), "middle": (units, 7), "out": (7, outputs)})
    return Case(linear_network, params, batch_of((batch, 5), outputs))


def flax_case(model, shape):
    batch = batch_of(shape)
    return Case(model.apply, jax.jit(model.init)(jax.random.key(2), batch[0]), batch)


def sequence_case(model, batch=4, steps=7):
    """A recurrent network with an output at every time step."""
    random = np.random.default_rng(8)
    batches = normal(random, (batch, steps, 3)), normal(random, (batch, steps, 3))
    return Case(model.apply, jax.jit(model.init)(jax.random.key(2), batches[0]), batches)


CASES = {
    "linear": linear_case,
    "dense": lambda: flax_case(MLP((16, 8), 3), (4, 5)),
    "strided convolution": lambda: flax_case(ConvNet((8, 8), (2, 1), 16, 3), (4, 8, 8, 2)),
    "residual convolution": lambda: flax_case(ResidualConv(), (4, 8, 8, 2)),
    "residual": lambda: Case(
        residual_network,
        weights(3, **{"in": (5, 6), "block0": (6, 6), "block1": (6, 6), "out": (6, 3)}),
        batch_of((4, 5)),
    ),
    "shared weights": lambda: Case(
        shared_network,
        weights(4, **{"in": (5, 6), "shared": (6, 6), "out": (6, 3)}),
        batch_of((4, 5)),
    ),
    "scan": lambda: Case(
        scanned_network,
        weights(5, **{"in": (5, 6), "recurrent": (6, 6), "out": (6, 3)}),
        batch_of((4, 5)),
    ),
    "leaky": lambda: sequence_case(LeakyRNN(6, 3)),
    "gated": lambda: sequence_case(GRU(6, 3)),
}

KNOWN = {"check": False, "causal": True}
"""These cases are known to obey what `check_model` would try anew in each test."""

ESTIMATORS = {
    "backprop": nmnc_jax.backprop,
    "nmnc": lambda f, loss: nmnc_jax.nmnc(
        f, loss, rank=4, explained_variance=0.9, probe=JVP, basis_update_every=2, **KNOWN
    ),
    "vnc": lambda f, loss: nmnc_jax.vnc(f, loss, probe=JVP, update_every=2, **KNOWN),
    "node_perturbation": lambda f, loss: nmnc_jax.node_perturbation(f, loss, rank=2, **KNOWN),
    "forward_gradient": lambda f, loss: nmnc_jax.forward_gradient(f, loss, **KNOWN),
    "control_variate": lambda f, loss: nmnc_jax.forward_gradient(
        f, loss, rank=2, feedback_decay=0.9, **KNOWN
    ),
    "direct_feedback_alignment": lambda f, loss: nmnc_jax.direct_feedback_alignment(
        f, loss, **KNOWN
    ),
    "weight_mirror": lambda f, loss: nmnc_jax.weight_mirror(f, loss, rank=2, **KNOWN),
    "feedback_alignment": lambda f, loss: nmnc_jax.feedback_alignment(f, loss, **KNOWN),
    "weight_perturbation": nmnc_jax.weight_perturbation,
    "weight_forward_gradient": nmnc_jax.weight_forward_gradient,
}

CHAINED = ("weight_mirror", "feedback_alignment")
"""Methods that take no tap inside a scan."""


def relative_error(got, expected):
    """Largest error of a leaf, over the leaf's largest value."""
    errors = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()), got, expected
    )
    return max(jax.tree.leaves(errors))


def error_on_eight_devices(estimator, case):
    """Relative error of gradients where eight devices divide the batch, against one device's."""
    state = estimator.init(case.params, case.batch)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(case.batch, NamedSharding(mesh, PartitionSpec("data")))
    estimate = jax.jit(estimator.estimate)
    one, _, _ = estimate(jax.random.key(0), case.params, case.batch, state)
    eight, _, _ = estimate(jax.random.key(0), case.params, sharded, state)
    return relative_error(jax.device_get(eight), jax.device_get(one))


def run_on(data, **fields):
    """Configuration of a run of a small network on a data set."""
    return Config.of(**{"data": data, "model": "mlp", "features": (16,), **fields})


def jitted(estimator):
    """The estimate, compiled, without the parts of info that cost memory."""
    return jax.jit(estimator.estimate)
