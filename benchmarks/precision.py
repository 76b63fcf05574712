"""The precision of measured responses to probes: python -m benchmarks.precision.

The benchmark measures the relative root-mean-square error of the response of a five-layer network
to perturbations, by size of the perturbation, difference, number format and activation function.
The reference is the directional derivative in float64.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import Row, bootstrap, parse, print_table, progress, save, write_table
from nmnc_jax import Probe, run
from nmnc_jax.layout import tap_shapes
from nmnc_jax.probes import linear_response

WIDTH = 128
LAYERS = 5
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
}
DTYPES = {"float64": jnp.float64, "float32": jnp.float32, "bfloat16": jnp.bfloat16}
COLOURS = {"float64": "tab:green", "float32": "tab:blue", "bfloat16": "tab:red"}
STYLES = {"central": "o-", "forward": "s--"}


def network(activation: Any) -> Any:
    """Dense layers with a tap after the first."""

    def apply_fn(params, inputs, tap):
        x = tap("x", activation(inputs @ params[0]))
        for weights in params[1:-1]:
            x = activation(x @ weights)
        return x @ params[-1]

    return apply_fn


def measure(name: str, sigmas: np.ndarray, examples: int, seed: int) -> list[Row]:
    """Returns the errors of every difference in every format, for one activation function."""
    apply_fn = network(ACTIVATIONS[name])
    keys = jax.random.split(jax.random.key(seed), LAYERS + 2)
    gain = 2**0.5 if name == "relu" else 1.0
    params = [
        gain * jax.random.normal(k, (WIDTH, WIDTH), jnp.float64) / WIDTH**0.5 for k in keys[:LAYERS]
    ]
    inputs = jax.random.normal(keys[-2], (examples, WIDTH), jnp.float64)
    noise = jax.random.normal(keys[-1], (examples, WIDTH), jnp.float64)

    def response(difference: Any, sigma: float, dtype: Any) -> np.ndarray:
        cast_params = [weights.astype(dtype) for weights in params]
        cast_inputs = inputs.astype(dtype)
        _, clean = run(apply_fn, cast_params, cast_inputs)
        change = linear_response(
            lambda tap: {"outputs": apply_fn(cast_params, cast_inputs, tap)},
            ["x"],
            Probe(difference=difference, sigma=sigma),
            clean=clean,
            shapes=tap_shapes(apply_fn, cast_params, cast_inputs),
            isolated=False,
        )
        rms = jnp.sqrt(jnp.mean(clean["x"].astype(jnp.float64) ** 2))
        changed = change({"x": (rms * noise).astype(dtype)})["outputs"]
        return np.asarray(changed, np.float64)

    truth = response("jvp", 1.0, jnp.float64)
    rows = []
    for dtype_name, dtype in DTYPES.items():
        for difference, chosen in (("jvp", [0.0]), ("central", sigmas), ("forward", sigmas)):
            for sigma in chosen:
                got = response(difference, float(sigma) or 1.0, dtype)
                squares = np.stack([((got - truth) ** 2).sum(axis=1), (truth**2).sum(axis=1)], 1)
                low, high = bootstrap(squares, _relative)
                rows.append(
                    {
                        "activation": name,
                        "dtype": dtype_name,
                        "difference": difference,
                        "sigma": float(sigma),
                        "error": float(_relative(squares)),
                        "low": low,
                        "high": high,
                    }
                )
    return rows


def _relative(squares: np.ndarray) -> np.ndarray:
    """Returns the root of summed squared errors over summed squared references, [examples, 2]."""
    error, size = squares.sum(axis=0)
    return np.sqrt(error / size)


def main() -> None:
    """Measures every activation function, writes precision.csv and precision.png."""
    options = parse("precision", __doc__ or "")
    jax.config.update("jax_enable_x64", True)
    sigmas = 10.0 ** np.arange(-7, 0.1, 0.5 if options.full else 1)
    rows = []
    for name in progress("activation functions", ACTIVATIONS):
        rows += measure(name, sigmas, 512 if options.full else 128, options.seed)
    write_table(options.out / "precision.csv", rows)
    best = []
    for row in rows:
        same = [
            r for r in rows if all(r[c] == row[c] for c in ("activation", "dtype", "difference"))
        ]
        if row is min(same, key=lambda r: r["error"]):
            best.append(row)
    print("best size of the perturbation (relative to the tap's RMS)")
    print_table(best, ["activation", "dtype", "difference", "sigma", "error", "low", "high"])
    save(draw(rows), options.out / "precision.png")


def draw(rows: list[Row]) -> Figure:
    """Draws the error over the perturbation's size, with a panel for each activation function."""
    figure = Figure(figsize=(16, 3.9), layout="constrained")
    panels = figure.subplots(1, len(ACTIVATIONS), sharey=True)
    for panel, name in zip(panels, ACTIVATIONS, strict=True):
        for dtype, colour in COLOURS.items():
            some = [r for r in rows if r["activation"] == name and r["dtype"] == dtype]
            for difference, style in STYLES.items():
                line = [r for r in some if r["difference"] == difference]
                middle = np.array([r["error"] for r in line])
                spread = [middle - [r["low"] for r in line], [r["high"] for r in line] - middle]
                label = f"{dtype}, {difference}"
                sizes = [r["sigma"] for r in line]
                panel.errorbar(sizes, middle, np.maximum(spread, 0), fmt=style, color=colour,
                               markersize=3, label=label)  # fmt: skip
            exact = next(r["error"] for r in some if r["difference"] == "jvp")
            if dtype != "float64":
                panel.axhline(exact, color=colour, linestyle=":", label=f"{dtype}, jvp")
        panel.axvline(1e-3, color="lightgray", zorder=0)
        panel.set(title=name, xscale="log", yscale="log", ylim=(1e-10, 300),
                  xlabel="sigma, relative to the tap's RMS")  # fmt: skip
    panels[0].set_ylabel("relative error (95 % interval)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
