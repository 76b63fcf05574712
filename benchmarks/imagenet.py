"""The cost of training at ImageNet's size: python -m benchmarks.imagenet --fake-data.

For AlexNet and ResNet-18 at 224x224, by method and number of probes K, the benchmark measures
images per second, the step's floating-point rate relative to that of the forward pass, memory, and
the time of each kind of operation in a trace of one step. The subspace is a random one with the
rank of the manifold, in which a step costs the same; the update of the principal components, in
every hundredth step, is timed separately. Without --fake-data images come from the prepared data
set and are decoded while the step runs.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import nmnc_jax
from benchmarks.common import (
    Row,
    interleaved,
    median_interval,
    parse,
    print_table,
    progress,
    save,
    write_table,
)
from benchmarks.images import CLASSES, fake_images, real_images
from benchmarks.networks import loss_fn
from benchmarks.stepper import Stepper
from benchmarks.trace import trace
from nmnc_jax import Estimator, Probe, Subspace, isotropic, no_tap, pca, random_subspace
from nmnc_jax.layout import tap_shapes
from nmnc_jax.models import AlexNet, resnet18

Maker = Callable[[Any], Estimator]


def methods(rank: int, counts: tuple[int, ...], *, together: bool = False) -> dict[str, Maker]:
    """Returns every method for every K.

    Args:
        rank: rank of the subspaces.
        counts: numbers of probes K.
        together: whether all K probes are in memory at once; XLA counts a loop's operations once.
    """

    def correlation(subspace: Subspace, readout: Any, num: int, scope: Any) -> Maker:
        chunk = num if together else None
        return lambda apply_fn: nmnc_jax.noise_correlation(
            apply_fn,
            loss_fn,
            subspace=subspace,
            readout=readout,
            probe=Probe(num=num, difference="jvp", scope=scope, chunk=chunk),
            feedback=nmnc_jax.learned_feedback(0.99),
        )

    found: dict[str, Maker] = {
        "backprop": lambda apply_fn: nmnc_jax.backprop(apply_fn, loss_fn),
        "dfa": lambda apply_fn: nmnc_jax.direct_feedback_alignment(apply_fn, loss_fn),
    }
    inside = random_subspace(rank)
    first = min(counts)
    found[f"vnc, all taps, K = {first}"] = correlation(isotropic(), "output", first, "all_taps")
    for num in counts:
        found |= {
            f"nmnc, all taps, K = {num}": correlation(inside, "output", num, "all_taps"),
            f"nmnc, each tap, K = {num}": correlation(inside, "output", num, "each_tap"),
            f"weight mirror, K = {num}": correlation(inside, "next", num, "all_taps"),
        }
    return found


def measure(name: str, model: Any, options: argparse.Namespace, images: Iterator[Any]) -> list[Row]:
    """Times each method's steps in turn with the forward pass and a step of backpropagation.

    Only one method is in memory at a time, because small machines cannot hold the feedback of two.
    """
    apply_fn: Any = model.apply
    first = next(images)
    params = jax.jit(model.init)(jax.random.key(options.seed), first[0][:1])
    forward = jax.jit(lambda p, x: apply_fn(p, x, no_tap))
    once = forward.lower(params, first[0]).compile()
    counts = tuple(options.probes)
    whole = methods(options.rank, counts, together=True)
    makers = methods(options.rank, counts)
    backprop = Stepper(makers["backprop"](apply_fn), params, first)
    shared = {
        "forward": lambda: forward(params, next(images)[0]),
        "backprop": _fed(backprop, images),
    }
    rows: list[Row] = [_row(name, "forward", once, _flops(once))]
    traced, traces = f"nmnc, all taps, K = {counts[0]}", []
    for method, make in progress(name, makers.items()):
        stepper = backprop
        if method != "backprop":
            stepper = Stepper(make(apply_fn), params, first)
        compiled = stepper.compile()
        counted = compiled
        if "K" in method and not method.endswith("K = 1"):
            state = jax.eval_shape(lambda state: state, stepper.state)
            counted = _step_of(whole[method](apply_fn)).lower(state, 0, first).compile()
        step = _fed(stepper, images)
        times = interleaved(shared | {method: step}, rounds=20 if options.full else 5)
        rate = _flops(once) / times["forward"]
        share = median_interval(_flops(counted) / times[method] / rate)
        rows[0].setdefault("images_per_second", options.batch / float(np.median(times["forward"])))
        rows.append(
            _row(name, method, compiled, _flops(counted))
            | {
                "images_per_second": options.batch / float(np.median(times[method])),
                "over_backprop": float(np.median(times[method] / times["backprop"])),
                "over_forward": float(np.median(times[method] / times["forward"])),
                "share_of_rate": share["median"],
                "low": share["low"],
                "high": share["high"],
            }
        )
        if method == traced:
            traces = [{"part": "trace", "model": name, "method": method, **r} for r in trace(step)]
    shapes = tap_shapes(apply_fn, params, first[0])
    widest = max(shape.units for shape in shapes.values())
    return [*rows, *traces, basis_update(name, widest, options, backprop)]


def _row(name: str, method: str, compiled: Any, flops: float) -> Row:
    """Returns XLA's operations of a step, and its memory for arguments and temporary arrays."""
    analysis = compiled.memory_analysis()
    used = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    counted = {"gigaflop": flops / 1e9, "gigabytes": float(used) / 1e9}
    return {"part": "step", "model": name, "method": method, **counted}


def _fed(stepper: Stepper, images: Iterator[Any]) -> Callable[[], Any]:
    """Returns a function that takes a step on the next images."""

    def step() -> Any:
        stepper.batch = next(images)
        return stepper()

    return step


def basis_update(name: str, units: int, options: argparse.Namespace, backprop: Stepper) -> Row:
    """Times an update of the principal components of the widest tap, in turn with a step."""
    subspace = pca(min(options.rank, units))
    rows = jax.random.normal(jax.random.key(0), (options.batch, units))
    state = jax.jit(lambda rows: subspace.init("x", rows))(rows)
    assert subspace.update is not None
    update = jax.jit(subspace.update)
    functions = {"update": lambda: update(state, rows), "step": backprop}
    times = interleaved(functions, rounds=20 if options.full else 5)
    ratio = float(np.median(times["update"] / times["step"]))
    return {
        "part": "basis update",
        "model": name,
        "method": f"n = {units:,}, d = {options.rank}",
        "milliseconds": 1000 * float(np.median(times["update"])),
        "share_of_step": ratio / subspace.update_every,
    }


def _step_of(estimator: Estimator) -> Any:
    """Compiles one step without an optimiser, to count its operations."""

    def step(state, number, batch):
        params, moments, memory = state
        key = jax.random.fold_in(jax.random.key(0), number)
        gradients, memory, _ = estimator.estimate(key, params, batch, memory)
        return gradients, moments, memory

    return jax.jit(step)


def _flops(compiled: Any) -> float:
    return float(compiled.cost_analysis()["flops"])


def main() -> None:
    """Measures both networks, writes imagenet.csv and imagenet.png."""
    accelerated = jax.default_backend() != "cpu"

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--fake-data", action="store_true", help="use random images")
        parser.add_argument("--data-dir", type=Path, default=Path("~/tensorflow_datasets"))
        parser.add_argument("--batch", type=int, default=256 if accelerated else 8)
        parser.add_argument("--rank", type=int, default=256 if accelerated else 64)
        parser.add_argument(
            "--probes", type=int, nargs="+", default=[1, 4], help="numbers of probes K"
        )

    options = parse("imagenet", __doc__ or "", add)
    # On CPU, float32 is faster than bfloat16.
    dtype = jnp.bfloat16 if accelerated else jnp.float32
    networks = {"AlexNet": AlexNet(CLASSES, dtype), "ResNet-18": resnet18(CLASSES, dtype=dtype)}
    rows: list[Row] = []
    for name, model in networks.items():
        images = (
            fake_images(options.batch, options.seed)
            if options.fake_data
            else real_images(options.batch, options.seed, options.data_dir.expanduser())
        )
        rows += measure(name, model, options, images)
        write_table(options.out / "imagenet.csv", rows)
    shown = {
        "step": ["model", "method", "images_per_second", "over_backprop", "over_forward",
                 "share_of_rate", "gigaflop", "gigabytes"],
        "trace": ["model", "operation", "share", "milliseconds"],
        "basis update": ["model", "method", "milliseconds", "share_of_step"],
    }  # fmt: skip
    for part, columns in shown.items():
        print_table([row for row in rows if row["part"] == part], columns)
    save(draw(rows, f"batch {options.batch}, {jnp.dtype(dtype).name}"),
         options.out / "imagenet.png")  # fmt: skip


def draw(rows: list[Row], subtitle: str) -> Figure:
    """Draws images per second, the share of the forward pass's rate, and a step's time by kind."""
    networks = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(14, 3.6 * len(networks)), layout="constrained")
    panels = figure.subplots(len(networks), 3, squeeze=False)
    for (speed, share, where), name in zip(panels, networks, strict=True):
        step = [row for row in rows if row["model"] == name and row["part"] == "step"]
        labels = [row["method"] for row in step]
        speed.barh(labels, [row["images_per_second"] for row in step], color="tab:blue")
        speed.set(title=f"{name}, {subtitle}", xlabel="images per second")
        step, labels = step[1:], labels[1:]
        middle = np.array([row["share_of_rate"] for row in step])
        ends = [[row[end] for row in step] for end in ("low", "high")]
        spread = np.abs([middle - ends[0], ends[1] - middle])
        share.barh(labels, middle, xerr=spread, color="tab:green")
        share.axvline(1, color="gray", linewidth=1)
        share.set(title="share of the forward pass's rate", xlabel="operations per second, ratio")
        traced = [row for row in rows if row["model"] == name and row["part"] == "trace"]
        where.barh([row["operation"] for row in traced], [row["share"] for row in traced],
                   color="tab:red")  # fmt: skip
        method = traced[0]["method"] if traced else ""
        where.set(title=f"a step of {method}", xlabel="share of the time in operations")
        for panel in (speed, share, where):
            panel.invert_yaxis()
    return figure


if __name__ == "__main__":
    main()
