"""How many probes an estimator needs: python -m benchmarks.samples.

Networks of several widths are trained on digits by backpropagation. At the end, each method's
estimates of one batch's gradient are averaged until their cosine with the exact gradient reaches
.5, .9 and .99. Other packages that are installed (`pip install -e '.[peers]'`: optax.perturbations,
evosax) estimate the same gradient. If the budget ends first, the number is extrapolated by the law
cos = limit / sqrt(1 + a / K), fitted to the measurements, and marked with "~"; "never" means that
the limit is lower (by the bias of averaged feedback or of a subspace).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure
from scipy.optimize import curve_fit

from benchmarks.common import Row, parse, print_table, progress, save, write_table
from benchmarks.estimators import Method, methods
from benchmarks.networks import Trained, loss_fn, train
from experiments.data.embedded import load_embedded
from nmnc_jax.diagnostics import exact_gradient
from nmnc_jax.models import MLP

COSINES = (0.5, 0.9, 0.99)


def main() -> None:
    """Measures every width, writes samples.csv and samples.png."""
    options = parse("samples", __doc__ or "")
    widths = (32, 64, 128, 256, 512, 1024) if options.full else (32, 64, 128, 256)
    budget = 2**14 if options.full else 2**10
    rows, curves = [], {}
    data = load_embedded("digits")
    work = [(width, name) for width in widths for name in methods()]
    trained: dict[int, Trained] = {}
    for width, name in progress("width and method", work):
        if width not in trained:
            trained[width] = train(MLP((width, width), 10), data, (600,), seed=options.seed)
        counts, cosines = averaged(trained[width], methods()[name], budget, options.seed)
        curves[width, name] = counts, cosines
        rows += needed(width, name, counts, cosines)
    write_table(options.out / "samples.csv", rows)
    shown = []
    for width, name in curves:
        line: Row = {"width": width, "method": name}
        for row in rows:
            if (row["width"], row["method"]) == (width, name):
                text = f"{row['mark']}{row['probes']:.0f}" if row["probes"] else "never"
                line[f"cos {row['cosine']}"] = text
        shown.append(line)
    print("probes per example and tap (or passes of all weights) for a cosine of")
    print_table(shown, ["width", "method", *(f"cos {c}" for c in COSINES)])
    save(draw(rows, curves), options.out / "samples.png")


def averaged(
    trained: Trained, method: Method, budget: int, seed: int, repeats: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Measures the cosine of the averaged estimate of K probes with the exact gradient.

    Returns:
        Counts K, [points], powers of two up to the budget; and cosines, [repeats, points].
    """
    (params,) = trained.stages.values()
    exact = ravel_pytree(exact_gradient(trained.apply_fn, loss_fn, params, trained.batch))[0]
    estimate = method.estimate(trained, params)

    @jax.jit
    def total(key: jax.Array, count: jax.Array) -> jax.Array:
        def add(number, sums):
            return sums + estimate(jax.random.fold_in(key, number))

        return jax.lax.fori_loop(0, count, add, jnp.zeros_like(exact))

    counts = 2 ** np.arange(int(np.log2(budget)) + 1)
    cosines = np.zeros((repeats, len(counts)))
    for repeat in range(repeats):
        sums, done = jnp.zeros_like(exact), 0
        for place, count in enumerate(counts):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), repeat), place)
            sums = sums + total(key, count - done)
            done = count
            cosines[repeat, place] = float(
                sums @ exact / (jnp.linalg.norm(sums) * jnp.linalg.norm(exact))
            )
    return counts, cosines


def needed(width: int, name: str, counts: np.ndarray, cosines: np.ndarray) -> list[Row]:
    """Returns the probes that each cosine needs, with a bootstrap interval over repeats."""
    random = np.random.default_rng(0)
    unbiased = methods()[name].unbiased
    resampled = [
        _crossings(
            counts, cosines[random.integers(0, len(cosines), len(cosines))].mean(axis=0), unbiased
        )
        for _ in range(100)
    ]
    rows = []
    for place, level in enumerate(COSINES):
        probes = _crossings(counts, cosines.mean(axis=0), unbiased)[place]
        values = [each[place] for each in resampled]
        never = not np.isfinite(probes)
        low, high = np.percentile(values, [2.5, 97.5], method="nearest")
        rows.append(
            {
                "width": width,
                "method": name,
                "cosine": level,
                "probes": None if never else float(probes),
                "low": float(low),
                "high": float(high),
                "mark": "~" if not never and probes > counts[-1] else "",
                "forward_passes": None if never else float(probes) * methods()[name].passes,
            }
        )
    return rows


def _crossings(counts: np.ndarray, cosines: np.ndarray, unbiased: bool = False) -> list[float]:
    """Returns the number of probes at each cosine, interpolated or by the law beyond the budget."""

    def law(k, a, limit=1.0):
        return limit / np.sqrt(1 + a / k)

    start = [counts[-1] * max(1 / max(cosines[-1], 0.01) ** 2 - 1, 1e-3)]
    if not unbiased:
        start.append(min(max(cosines.max(), 0.1), 1.0))
    bounds = ([0.0, 0.0][: len(start)], [np.inf, 1.0][: len(start)])
    fitted, _ = curve_fit(law, counts, cosines, p0=start, bounds=bounds, maxfev=5000)
    a, limit = fitted[0], 1.0 if unbiased else fitted[1]
    found = []
    for level in COSINES:
        above = np.flatnonzero(cosines >= level)
        if len(above) and above[0] == 0:
            found.append(float(counts[0]))
        elif len(above):
            right = above[0]
            share = (level - cosines[right - 1]) / (cosines[right] - cosines[right - 1])
            logs = np.log2(counts)
            found.append(float(2 ** (logs[right - 1] + share * (logs[right] - logs[right - 1]))))
        elif limit > level:
            found.append(float(a / ((limit / level) ** 2 - 1)))
        else:
            found.append(np.inf)
    return found


def draw(rows: list[Row], curves: dict[tuple[int, str], Any]) -> Figure:
    """Draws cosine over probes for the widest network, and needed probes and passes over width."""
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    curve, half, nine, passes = figure.subplots(1, 4)
    widest = max(width for width, _ in curves)
    for name, method in methods().items():
        counts, cosines = curves[widest, name]
        middle = cosines.mean(axis=0)
        error = 2 * cosines.std(axis=0, ddof=1) / len(cosines) ** 0.5
        curve.plot(counts, middle, color=method.colour, label=name)
        curve.fill_between(counts, middle - error, middle + error, color=method.colour, alpha=0.2)
        for panel, level, column in (
            (half, 0.5, "probes"),
            (nine, 0.9, "probes"),
            (passes, 0.9, "forward_passes"),
        ):
            some = [r for r in rows if r["method"] == name and r["cosine"] == level and r[column]]
            panel.plot([r["width"] for r in some], [r[column] for r in some], color=method.colour)
            for filled in (True, False):
                marked = [r for r in some if (r["mark"] == "") == filled]
                x, y = [r["width"] for r in marked], [r[column] for r in marked]
                face = method.colour if filled else "white"
                panel.plot(x, y, "o", color=method.colour, markerfacecolor=face)
    curve.set(title=f"width {widest}", xscale="log", xlabel="probes K averaged",
              ylabel="cosine with the exact gradient (2 standard errors)")  # fmt: skip
    curve.legend(frameon=False, fontsize=7)
    for panel, title in (
        (half, "probes for a cosine of 0.5"),
        (nine, "probes for a cosine of 0.9"),
        (passes, "forward-pass equivalents for 0.9"),
    ):
        panel.set(title=title, xscale="log", yscale="log", xlabel="width (open: extrapolated)")
        widths = sorted({width for width, _ in curves})
        panel.set_xticks(widths, [str(width) for width in widths])
        panel.minorticks_off()
    return figure


if __name__ == "__main__":
    main()
