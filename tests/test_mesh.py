"""Many devices give the numbers of one; several processes train as one."""

import signal
import time

import chex
import jax
import numpy as np
import pytest

import nmnc_jax
from benchmarks.processes import outputs_of, start_together
from experiments.configuration import Config
from experiments.data import load
from experiments.errors import UserError
from experiments.planning.collectives import collectives
from experiments.planning.compiled import compile_cost
from experiments.planning.programs import step_program
from experiments.training.mesh import make_devices
from experiments.training.trainer import make_trainer
from nmnc_jax.types import Due
from tests.conftest import QUICK
from tests.test_checkpoints import last_network, without_time
from tests.test_experiments import SHORT

CONFIG = Config.of(
    data="digits", model="mlp", features=(32, 16), batch=16, steps=20, rank=6, probes=4,
    basis_batch=20, basis_update_every=2, alignment_batch=16, devices=1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _promotion_that_optax_takes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def trained(steps=3, **changes):
    config = CONFIG.replace(**changes)
    data = load(config)
    trainer = make_trainer(config, data)
    state = trainer.init(0)
    rows = trainer.devices.rows(config.run.batch)
    for step, examples in enumerate(data.train_batches(16, 0, steps=range(steps), rows=rows)):
        batch = trainer.devices.place(16, examples)
        state, _ = trainer.step(state, jax.random.fold_in(jax.random.key(1), step), batch)
    return state, trainer


def difference(one, other):
    """Largest change of a parameter, over the mean step that the parameters have taken."""
    one, other = (jax.device_get(state.params) for state in (one, other))
    changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), one, other)
    return max(jax.tree.leaves(changes)) / 3e-3


@pytest.mark.sampled(9)
@pytest.mark.parametrize("estimator", ["nmnc", "vnc", "weight_mirror_manifold"])
def test_every_layout_gives_the_numbers_of_one_device(estimator):
    one, _ = trained(estimator=estimator)
    layouts = [{}, {"divide_units": True}]
    for layout in layouts[:1] if estimator != "nmnc" else layouts:
        eight, _ = trained(estimator=estimator, **{"devices": 8, **layout})
        # Adam divides by the gradient's own size: what is at rounding level moves.
        assert difference(one, eight) < 1e-3
        coordinates = eight.estimator.feedback["dense0"].coordinates
        assert coordinates.sharding.is_fully_replicated
        basis = eight.estimator.subspace["dense0"].basis
        if estimator != "vnc":
            divided = {shard.data.shape for shard in basis.addressable_shards}
            assert divided == {(4, 6) if "divide_units" in layout else (32, 6)}


def test_a_basis_update_takes_some_of_a_large_batch_the_same_on_all_layouts():
    """Rows that are left out do not change the bases, whatever the number of devices."""
    found = []
    for devices, left_out in ((1, False), (8, False), (1, True)):
        config = CONFIG.replace(devices=devices, batch=32, basis_batch=16)
        data = load(config)
        trainer = make_trainer(config, data)
        images, labels = data.train_examples(np.arange(32))
        if left_out:
            images = np.concatenate([images[::2, None], images[::2, None]], 1).reshape(images.shape)
        batch = trainer.devices.place(32, (images, labels))
        part = trainer.parts(Due(probe=False, move=True))[0]
        state, _ = part.function(trainer.init(0), jax.random.key(1), batch, due=part.due)
        found.append(jax.device_get(state.estimator.subspace))
    for other in found[1:]:
        chex.assert_trees_all_close(found[0], other, rtol=1e-3, atol=1e-4)


def test_a_basis_update_of_a_large_batch_costs_what_it_uses():
    config = CONFIG.replace(devices=8, batch=64, basis_batch=16)
    data = load(config)
    trainer = make_trainer(config, data)
    part = trainer.parts(Due(probe=False, move=True))[0]
    costs = [
        compile_cost(step_program(trainer, config.replace(batch=batch), data, part))
        for batch in (16, 64)
    ]
    assert costs[0].collective_bytes == costs[1].collective_bytes
    assert costs[1].flops == pytest.approx(costs[0].flops, rel=0.01)


def test_feedback_of_all_units_is_divided_too():
    one, _ = trained(estimator="vnc")
    eight, _ = trained(estimator="vnc", devices=8, divide_units=True)
    assert difference(one, eight) < 1e-3
    shards = eight.estimator.feedback["dense0"].coordinates.addressable_shards
    assert {shard.data.shape for shard in shards} == {(10, 4)}


def test_a_batch_is_joined_from_its_rows():
    devices = make_devices(CONFIG.replace(devices=8))
    images = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    inputs, targets = devices.gather(lambda rows: (images[rows], rows), np.arange(24)[::-1])
    np.testing.assert_array_equal(inputs, images[::-1])
    np.testing.assert_array_equal(targets, np.arange(24)[::-1])
    assert {shard.data.shape for shard in inputs.addressable_shards} == {(3, 3)}
    assert devices.size(30) == 24
    with pytest.raises(UserError, match="batch is 12; it takes a multiple of the 8 devices"):
        devices.rows(12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 9}, "devices is 9; there are 8"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_devices(CONFIG.replace(**changes))


def test_fewer_examples_to_compare_than_devices_are_refused():
    with pytest.raises(UserError, match="alignment_batch is 4; it takes at least 1 for each of"):
        make_trainer(CONFIG.replace(alignment_batch=4, devices=0), load(CONFIG))


def start_processes(out, *more):
    """Two processes of one device each."""
    short = SHORT[: SHORT.index("--devices")]
    return start_together(["digits", *short, "--out", str(out), *more], QUICK)


def test_two_processes_train_as_one_stop_together_and_go_on(tmp_path):
    from experiments import train

    train.main(["digits", *SHORT, "--out", str(tmp_path / "one")])
    two = tmp_path / "two"
    processes = start_processes(two, "--checkpoint-every", "2", "--resume")
    while not (two / "metrics.jsonl").exists() and processes[0].poll() is None:
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    outputs = outputs_of(processes, 120)
    if "stopped at step" in outputs[0]:
        assert "stopped at step" in outputs[1]
        outputs_of(start_processes(two, "--resume"), 120)
    assert difference(last_network(tmp_path / "one"), last_network(two)) < 1e-3
    for one, other in zip(without_time(tmp_path / "one"), without_time(two), strict=True):
        assert one["step"] == other["step"]
        assert one["test_accuracy"] == pytest.approx(other["test_accuracy"])


def test_a_basis_update_moves_the_activity_once_and_sums_gram_matrices():
    devices = make_devices(CONFIG.replace(devices=8))
    units, rank, batch = 512, 4, 16
    plain = nmnc_jax.pca(rank)
    state = plain.init("x", jax.random.normal(jax.random.key(0), (batch, units)))
    rows = jax.random.normal(jax.random.key(1), (batch, units))
    divided = devices.divide_updates(plain)
    update = jax.jit(divided.update, out_shardings=devices.replicated)
    arguments = jax.device_put((state, rows), (devices.replicated, devices.of_batch(batch)))
    for one, eight in zip(plain.update(state, rows), update(*arguments), strict=True):
        # Components of random rows are close in variance: rounding turns them among themselves.
        assert one is eight or np.abs(one - eight).max() < 1e-3 * np.abs(one).max()
    sent = collectives(update.lower(*arguments).compile().as_text())
    gathered = 4 * units * (rank + 1)  # The basis and the mean, which each device holds whole.
    assert sent["all-gather"] == gathered
    assert sent["all-to-all"] == 4 * batch * units // 8
    assert sent["all-reduce"] < 4 * 4 * (batch + rank + 1) ** 2
    assert set(sent) == {"all-gather", "all-to-all", "all-reduce"}
