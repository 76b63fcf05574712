"""The estimators that `benchmarks.samples` compares, with those of other installed packages."""

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.flatten_util import ravel_pytree

from benchmarks.networks import Trained, correlation, loss_fn
from nmnc_jax import no_tap, weight_perturbation

RANK = 32
TAPS = 2
SIGMA = 1e-3


class Method(NamedTuple):
    """A gradient estimator with its cost.

    Attributes:
        colour: colour of its line.
        passes: forward-pass equivalents per probe: passes through the network, or directional
            derivatives, which have as many operations (an upper bound: a pass that starts at a tap
            costs less).
        estimate: ``estimate(trained, params) -> (key -> flat gradient from one probe)``.
        unbiased: whether the limit of the cosine is known to be 1.
    """

    colour: str
    passes: float
    estimate: Callable[[Trained, Any], Callable[[jax.Array], jax.Array]]
    unbiased: bool = False


def from_estimator(make: Callable[[Any], Any]) -> Callable[[Trained, Any], Any]:
    """Adapts one of the library's estimators."""

    def build(trained: Trained, params: Any) -> Callable[[jax.Array], jax.Array]:
        estimator = make(trained.apply_fn)
        state = estimator.init(params, trained.fit)
        batch = trained.batch
        return lambda key: ravel_pytree(estimator.estimate(key, params, batch, state)[0])[0]

    return build


def optax_perturbations(trained: Trained, params: Any) -> Callable[[jax.Array], jax.Array]:
    """Returns the gradient of Optax's perturbed function, from one sample with its baseline."""
    flat, unravel = ravel_pytree(params)
    inputs, targets = trained.batch

    def loss(weights: jax.Array) -> jax.Array:
        return loss_fn(trained.apply_fn(unravel(weights), inputs, no_tap), targets).mean()

    make: Any = optax.perturbations.make_perturbed_fun  # its annotations name one noise only
    perturbed = make(loss, num_samples=1, sigma=SIGMA, noise=optax.perturbations.Normal())
    return lambda key: jax.grad(perturbed, argnums=1)(key, flat)


def evosax_open_es(trained: Trained, params: Any) -> Callable[[jax.Array], jax.Array]:
    """OpenAI's evolution strategy in evosax: one antithetic pair and a step of plain descent."""
    from evosax.algorithms import Open_ES  # pyright: ignore[reportMissingImports]

    flat, unravel = ravel_pytree(params)
    inputs, targets = trained.batch
    strategy = Open_ES(
        population_size=2,
        solution=flat,
        optimizer=optax.sgd(1.0),
        std_schedule=optax.constant_schedule(SIGMA),
        fitness_shaping_fn=lambda population, fitness, *_: fitness,
    )

    def estimate(key: jax.Array) -> jax.Array:
        start, ask, tell = jax.random.split(key, 3)
        settings = strategy.default_params
        state = strategy.init(start, flat, settings)
        population, state = strategy.ask(ask, state, settings)
        weights = jax.vmap(unravel)(population)
        fitness = jax.vmap(lambda p: loss_fn(trained.apply_fn(p, inputs, no_tap), targets).mean())(
            weights
        )
        state, _ = strategy.tell(tell, population, fitness, state, settings)
        return flat - state.mean

    return estimate


def methods() -> dict[str, Method]:
    """Returns the methods, with those of other packages that are installed."""
    found = {
        "vnc": Method(
            "tab:blue", TAPS, from_estimator(correlation("output", subspace="all", num=1))
        ),
        "nmnc": Method(
            "tab:red",
            TAPS,
            from_estimator(correlation("output", subspace="manifold", rank=RANK, num=1)),
        ),
        "random subspace": Method(
            "tab:green",
            TAPS,
            from_estimator(correlation("output", subspace="random", rank=RANK, num=1)),
        ),
        "node perturbation": Method(
            "tab:orange", TAPS, from_estimator(correlation("loss", subspace="all", num=1)), True
        ),
        "node perturbation, manifold": Method(
            "tab:brown",
            TAPS,
            from_estimator(correlation("loss", subspace="manifold", rank=RANK, num=1)),
        ),
        "weight perturbation": Method(
            "tab:olive",
            2,
            from_estimator(lambda f: weight_perturbation(f, loss_fn, num=1, sigma=SIGMA)),
            True,
        ),
        "optax.perturbations": Method("tab:cyan", 2, optax_perturbations, True),
    }
    if importlib.util.find_spec("evosax"):
        found["evosax Open_ES"] = Method("tab:pink", 2, evosax_open_es, True)
    return found
