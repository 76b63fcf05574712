"""Awkward models in one table: every method meets each of them in one law."""

import jax
import jax.numpy as jnp

from tests.cases import Case, weights

WEIGHTS = weights(11, **{"in": (3, 4), "a": (4, 4), "b": (4, 4), "carry": (4, 4), "out": (4, 2)})
STEPS = 3


def squared_error(outputs, targets):
    return ((outputs - targets) ** 2).reshape(len(outputs), -1).sum(-1)


def by_step(outputs, targets):
    return ((outputs - targets) ** 2).sum(-1)


def contrastive(outputs, targets):
    """A loss in which examples are compared with each other."""
    del targets
    return jax.nn.logsumexp(outputs @ outputs[::-1].T, axis=1) - (outputs**2).sum(-1)


def skip(p, x, tap):
    """A way around the second tap."""
    h = tap("h1", jnp.tanh(x @ p["in"]))
    return tap.linear(tap("h2", jnp.tanh(tap.linear(h @ p["a"])) + h) @ p["out"])


def linear(p, x, tap):
    """A Jacobian that is the same for all examples."""
    h = tap("h1", x @ p["in"])
    return tap("h2", tap.linear(h @ p["a"])) @ p["out"]


def unmarked_skip(p, x, tap):
    h = tap("h1", jnp.tanh(x @ p["in"]))
    return (tap("h2", jnp.tanh(h @ p["a"])) + h) @ p["out"]


def branches(p, x, tap):
    """Two taps side by side, of which the second does not depend on the first."""
    left = tap("left", jnp.tanh(x @ p["in"]))
    right = tap("right", jnp.tanh(x @ p["in"] @ p["a"]))
    return (left * right) @ p["out"]


def two_marks(p, x, tap):
    h = tap("h1", jnp.tanh(x @ p["in"]))
    q, k = tap.linear(h @ p["a"]), tap.linear(h @ p["b"])
    return tap.linear(tap("h2", jnp.tanh(q) + jnp.tanh(k)) @ p["out"])


def shared(p, x, tap):
    x = x @ p["in"]
    for turn in range(3):
        x = tap(f"turn{turn}", jnp.tanh(x @ p["a"]))
    return x @ p["out"]


def stream(p, x, tap):
    """Taps in branches of a residual stream that passes them by."""
    x = x @ p["in"]
    for name in ("a", "b"):
        x = x + tap(name, jnp.tanh(x @ p[name]))
    return x @ p["out"]


def scan(p, x, tap, name="h", **how):
    """A linear recurrent network, [B, T, 3] to [B, T, 4]."""

    def body(carry, x, tap):
        carry = tap(name, 0.5 * carry @ p["carry"] + x @ p["in"])
        return carry, carry

    ys = tap.scan(body, jnp.zeros((len(x), 4)), jnp.moveaxis(x, 1, 0), **how)[1]
    return jnp.moveaxis(ys, 0, 1)


def forward_scan(p, x, tap):
    return scan(p, x, tap) @ p["out"]


def reversed_scan(p, x, tap):
    return scan(p, x[:, ::-1], tap)[:, ::-1] @ p["out"]


def scan_from_the_end(p, x, tap):
    return scan(p, x, tap, reverse=True) @ p["out"]


def both_ways(p, x, tap):
    there = scan(p, x, tap, "there")
    back = scan(p, x[:, ::-1], tap, "back")[:, ::-1]
    return (there + back) @ p["out"]


def encode_then_emit(p, x, tap):
    code = scan(p, x, tap)[:, -1]

    def emit(carry, _, tap):
        carry = tap("emitted", jnp.tanh(carry @ p["a"]))
        return carry, carry @ p["out"]

    return jnp.moveaxis(tap.scan(emit, code, None, length=STEPS)[1], 0, 1)


def forecast(p, x, tap):
    """As many outputs as there were steps, all from the last state."""
    last = scan(p, x, tap)[:, -1]
    return jnp.stack([last @ p["out"], last @ p["a"] @ p["out"], last @ p["b"] @ p["out"]], axis=1)


def nested(p, x, tap):
    """A scan in a scan: two time axes."""

    def outer(carry, x, tap):
        def inner(carry, scale, tap):
            carry = tap("h", 0.5 * carry @ p["carry"] + scale * (x @ p["in"]))
            return carry, carry @ p["out"]

        return tap.scan(inner, carry, jnp.array([1.0, 0.5]))

    ys = tap.scan(outer, jnp.zeros((len(x), 4)), jnp.moveaxis(x, 1, 0))[1]
    return jnp.moveaxis(ys, 2, 0)


def nested_with_the_outer_time(p, x, tap):
    """Two time axes, of which the outputs have the outer one."""

    def outer(carry, x, tap):
        def inner(carry, scale, tap):
            carry = tap("h", 0.5 * carry @ p["carry"] + scale * (x @ p["in"]))
            return carry, None

        carry, _ = tap.scan(inner, carry, jnp.array([1.0, 0.5]))
        return carry, carry @ p["out"]

    ys = tap.scan(outer, jnp.zeros((len(x), 4)), jnp.moveaxis(x, 1, 0))[1]
    return jnp.moveaxis(ys, 0, 1)


def mixed(p, h, how):
    """Adds what other positions have, by a matrix [T, T]."""
    return h + jnp.swapaxes(jnp.swapaxes(h, 1, 2) @ how(h.shape[1]).T, 1, 2) @ p["a"]


def before(steps):
    """Weights that depend on the lag alone, with nothing from later positions."""
    lags = jnp.arange(steps)[:, None] - jnp.arange(steps)[None]
    return jnp.where(lags >= 0, 0.5 ** jnp.abs(lags).astype(jnp.float32), 0)


def anywhere(steps):
    places = jnp.arange(steps, dtype=jnp.float32)
    return jnp.cos(places[:, None] + 2 * places[None])


def causal_positions(p, x, tap):
    """Positions as rows, each of which sees those before it; outputs [B, T, 2]."""
    h = tap("h", x @ p["in"], time_axes=1)
    return tap("mixed", mixed(p, h, before), time_axes=1) @ p["out"]


def positions(p, x, tap):
    """The same where every position sees every other, by weights of its own."""
    h = tap("h", jnp.tanh(x @ p["in"]), time_axes=1)
    h = tap("mixed", jnp.tanh(mixed(p, h, anywhere)), time_axes=1)
    return mixed(p, h, anywhere) @ p["out"]


def in_forms(p, x, tap):
    """Taps inside rematerialised, compiled, mapped and conditional blocks."""
    layer = lambda w, x, tap: tap("h1", jnp.tanh(x @ w))  # noqa: E731
    h = tap.checkpoint(layer)(p["in"], x)
    h = tap.jit(lambda w, h, tap: tap("h2", jnp.tanh(h @ w)))(p["a"], h)
    one = lambda h, tap: tap("h3", jnp.tanh(h @ p["b"]))  # noqa: E731
    h = tap.vmap(one)(h)
    branch = lambda h, tap: tap("h4", jnp.sin(h))  # noqa: E731
    h = tap.cond(p["in"][0, 0] > 0, branch, lambda h, tap: tap("h4", jnp.cos(h)), h)
    return h @ p["out"]


def around_a_scan(p, x, tap):
    """A tap before a scan, one inside it, one after it."""
    first = tap("before", jnp.tanh(x @ p["in"]))

    def body(carry, x, tap):
        carry = tap("inside", 0.5 * carry @ p["carry"] + x)
        return carry, None

    last, _ = tap.scan(body, jnp.zeros((len(x), 4)), jnp.moveaxis(first, 1, 0))
    return tap("after", jnp.tanh(last @ p["a"])) @ p["out"]


def stacked_layers(p, x, tap):
    """A scan over layers, each with weights of its own."""
    weights = jnp.stack([p["a"], p["b"]])

    def body(h, w, tap):
        return tap.linear(tap("h", jnp.tanh(h)) @ w), None

    return tap.scan(body, x @ p["in"], weights)[0] @ p["out"]


def gated(p, x, tap):
    """Examples that are coupled through a gate that starts near zero, as LayerScale does."""
    h = tap("h", jnp.tanh(x @ p["in"]))
    return (h - p["gate"] * h.mean(0)[None]) @ p["out"]


def rooted(p, x, tap):
    """Examples that are coupled after a root, which noise may take out of its range."""
    h = jnp.sqrt(tap("h", jax.nn.softmax(30 * x @ p["in"])) + 1e-6)
    return (h - h.mean(0)[None]) @ p["out"]


def batch_norm(p, x, tap):
    """Statistics of the batch, as use_running_average=False has them."""
    h = tap("h", jnp.tanh(x @ p["in"])) @ p["a"]
    return jnp.tanh((h - h.mean(0)[None]) / (0.5 + h.std(0)[None])) @ p["out"]


def frozen_norm(p, x, tap):
    h = tap("h", jnp.tanh(x @ p["in"])) @ p["a"]
    return jnp.tanh((h - 0.1) / 0.7) @ p["out"]


def scalar(p, x, tap):
    """Outputs [B]."""
    return (tap("h", jnp.tanh(x @ p["in"])) @ p["out"])[:, 0]


def two_heads(p, x, tap):
    """Outputs in a dict."""
    h = tap("h", jnp.tanh(x @ p["in"]))
    return {"class": h @ p["out"], "value": (h @ p["a"])[:, 0]}


def two_head_error(outputs, targets):
    return squared_error(outputs["class"], targets) + (outputs["value"] - 1) ** 2


def zero_head(p, x, tap):
    """An output layer that starts at zero: the tap has no effect yet."""
    return tap("h", jnp.tanh(x @ p["in"])) @ (p["out"] * p["zero"])


def forgotten(p, x, tap):
    h = jnp.tanh(x @ p["in"])
    tap("h", h)
    return h @ p["out"]


def time_first(p, x, tap):
    """Examples along the second axis of the tap."""
    return jnp.moveaxis(tap("h", jnp.moveaxis(x, 1, 0) @ p["in"]) @ p["out"], 0, 1)


def case(model, *, times=(), loss=squared_error, targets=None, params=WEIGHTS, batch=4):
    keys = jax.random.split(jax.random.key(5))
    inputs = jax.random.normal(keys[0], (batch, *times[:1], 3))
    shape = (batch, *times, 2) if targets is None else (batch, *targets)
    return Case(model, params, (inputs, jax.random.normal(keys[1], shape))), loss


ZOO = {
    "skip": case(skip),
    "unmarked skip": case(unmarked_skip),
    "branches": case(branches),
    "two marks": case(two_marks),
    "shared": case(shared),
    "stream": case(stream),
    "scan": case(forward_scan, times=(STEPS,), loss=by_step),
    "reversed scan": case(reversed_scan, times=(STEPS,), loss=by_step),
    "scan from the end": case(scan_from_the_end, times=(STEPS,), loss=by_step),
    "both ways": case(both_ways, times=(STEPS,), loss=by_step),
    "encode then emit": case(encode_then_emit, times=(STEPS,), loss=by_step),
    "forecast": case(forecast, times=(STEPS,), loss=by_step),
    "nested": case(nested, times=(STEPS, 2)),
    "nested with the outer time": case(nested_with_the_outer_time, times=(STEPS,)),
    "causal positions": case(causal_positions, times=(STEPS,), loss=by_step),
    "positions": case(positions, times=(STEPS,), loss=by_step),
    "in forms": case(in_forms),
    "around a scan": case(around_a_scan, times=(STEPS,), targets=(2,)),
    "batch norm": case(batch_norm),
    "frozen norm": case(frozen_norm),
    "stacked layers": case(stacked_layers),
    "gated": case(gated, params={**WEIGHTS, "gate": jnp.full((1, 4), 1e-6)}),
    "rooted": case(rooted),
    "in-batch loss": case(linear, loss=contrastive),
    "scalar": case(scalar, targets=()),
    "two heads": case(two_heads, targets=(2,), loss=two_head_error),
    "zero head": case(zero_head, params={**WEIGHTS, "zero": jnp.zeros((4, 2))}),
    "forgotten": case(forgotten),
    "time first": case(time_first, times=(4,), targets=(4, 2)),
}
