"""Trials of tasks through time against plain re-tellings, and their place in training."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.configs import load_config
from experiments.data import TASKS
from experiments.data.tasks import Trials
from experiments.errors import UserError
from experiments.methods import checked
from experiments.methods.controls import one_step
from experiments.train import main
from nmnc_jax.diagnostics import exact_gradient
from nmnc_jax.models import LeakyRNN
from tests.cases import relative_error

STEPS = 50


@pytest.fixture(autouse=True)
def _promotion_that_optax_takes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def trials(name, count=400, **fields):
    inputs, targets = Trials(name, STEPS, **fields).test_examples(np.arange(count))
    return inputs, targets[..., :-1], targets[..., -1]


def test_flip_flop_remembers_the_last_pulse():
    inputs, targets, mask = trials("flip_flop")
    state = np.zeros((len(inputs), 3))
    for step in range(STEPS):
        state = np.where(inputs[:, step] != 0, inputs[:, step], state)
        np.testing.assert_array_equal(targets[:, step], state)
    assert (mask == 1).all()
    assert np.abs((inputs != 0)[:, 1:].mean() - 0.1) < 0.01


def test_context_asks_for_one_channel():
    inputs, targets, mask = trials("context", 2048)
    evidence, cue = inputs[..., :2].sum(axis=1), inputs[:, 0, 2:]
    asked, other = (evidence * cue).sum(axis=1), (evidence * (1 - cue)).sum(axis=1)
    wanted = targets[:, -1, 0]
    ceiling = TASKS["context"].ceiling
    assert (np.sign(asked) == wanted).mean() == pytest.approx(ceiling, abs=0.02)
    assert (np.sign(other) == wanted).mean() == pytest.approx(0.5, abs=0.05)
    assert (inputs[..., :2][mask == 1] == 0).all()


def test_match_compares_the_stimuli():
    inputs, targets, mask = trials("match", 2048)
    first, second = inputs[:, 0].argmax(axis=-1), inputs[:, 30].argmax(axis=-1)
    np.testing.assert_array_equal(np.where(first == second, 1, -1), targets[:, -1, 0])
    assert (first == second).mean() == pytest.approx(0.5, abs=0.05)
    assert mask.sum(axis=1).tolist() == [10] * 2048
    assert (inputs[:, 10:30] == 0).all()


def test_evidence_is_decided_by_the_count():
    inputs, targets, _ = trials("evidence", 2048)
    sides = inputs.sum(axis=1)
    np.testing.assert_array_equal(np.sign(sides[:, 1] - sides[:, 0]), targets[:, -1, 0])
    assert targets[:, -1, 0].mean() == pytest.approx(0, abs=0.08)


@pytest.mark.parametrize("rotation", [0.0, 30.0])
def test_reach_ends_at_the_turned_target(rotation):
    inputs, targets, _ = trials("reach", rotation=rotation)
    shown, end = (part[:, -1, 0] + 1j * part[:, -1, 1] for part in (inputs, targets))
    np.testing.assert_allclose(end, shown * np.exp(1j * np.pi * rotation / 180), atol=1e-5)
    assert np.abs(targets[inputs[..., 2] == 1]).max() == 0
    speed = np.linalg.norm(np.diff(targets, axis=1), axis=-1)
    assert speed.max() < 0.12


@pytest.mark.parametrize("name", TASKS)
def test_chance_and_ceiling_are_those_of_blind_and_perfect_answers(name):
    data = Trials(name, STEPS)
    _, targets = data.test_examples(np.arange(2048))
    blind = np.ones_like(targets[..., :-1])
    assert data.correct(blind, targets).mean() == pytest.approx(data.chance, abs=0.04)
    assert data.correct(targets[..., :-1], targets).mean() == pytest.approx(1)
    assert data.loss(targets[..., :-1], targets).max() == 0


def test_the_loss_is_the_mean_over_what_counts():
    data = Trials("match", STEPS)
    _, targets = data.test_examples(np.arange(3))
    outputs = targets[..., :-1] + 0.5
    losses = np.asarray(data.loss(outputs, targets))
    assert losses.shape == (3, STEPS)
    assert losses.mean() == pytest.approx(0.25)
    assert (losses[targets[..., -1] == 0] == 0).all()


def test_trials_are_known_from_their_number_and_parts_differ():
    data = Trials("flip_flop", STEPS)
    rows = np.arange(8)
    late = list(data.train_batches(8, 0, steps=range(3, 5), rows=rows))
    early = list(data.train_batches(8, 0, steps=range(5), rows=rows))
    np.testing.assert_array_equal(late[0][0], early[3][0])
    np.testing.assert_array_equal(
        next(data.train_batches(8, 0, steps=range(1), rows=rows[2:4]))[0], early[0][0][2:4]
    )
    others = [
        early[1],
        next(data.train_batches(8, 1, steps=range(1), rows=rows)),
        data.train_examples(rows),
        data.test_examples(rows),
        Trials("flip_flop", STEPS, validation=True).test_examples(rows),
    ]
    for inputs, _ in others:
        assert (inputs != early[0][0]).any()
    inputs = np.stack([early[0][0], *(part[0] for part in others)])
    assert len({trial.tobytes() for trial in inputs.reshape(-1, STEPS, 3)}) == 48


ARGUMENTS = [
    *("--time-steps", "12", "--features", "32", "--rank", "8", "--batch", "32", "--devices", "1"),
    *("--steps", "300", "--log-every", "150", "--basis-batch", "32", "--alignment-batch", "32"),
]


def test_a_task_is_learned_from_the_command_line(tmp_path):
    out = tmp_path / "run"
    main(["rnn_flip_flop", "--estimator", "nmnc", *ARGUMENTS, "--out", str(out)])
    last = last_of(out)
    assert last["test_accuracy"] > 0.85
    assert last["test_loss"] < 0.5
    assert set(last["alignment"]) == {"rate"}


def test_a_basis_that_moves_from_outside_is_that_of_time_steps_too(tmp_path):
    arguments = [*ARGUMENTS, "--steps", "5", "--log-every", "5", "--basis-update-every", "2"]
    main(
        [
            "rnn_flip_flop",
            "--estimator",
            "nmnc_unrotated",
            *arguments,
            "--out",
            str(tmp_path / "run"),
        ]
    )


def test_one_step_is_backpropagation_where_nothing_recurs():
    """With recurrent weights of zero nothing would go back through them."""
    model = LeakyRNN(5, 2, gain=0.0)
    inputs, targets = jax.random.normal(jax.random.key(0), (2, 4, 7, 2))
    params = model.init(jax.random.key(1), inputs)

    def squared_error(outputs, targets):
        return ((outputs - targets) ** 2).sum(axis=-1)

    exact = exact_gradient(model.apply, squared_error, params, (inputs, targets))
    found, _, _ = one_step(model.apply, squared_error).estimate(
        jax.random.key(2), params, (inputs, targets), ()
    )
    assert relative_error(found, exact) < 1e-5
    params["params"]["recurrent"] = jax.random.normal(jax.random.key(3), (5, 5))
    exact = exact_gradient(model.apply, squared_error, params, (inputs, targets))
    found, _, _ = one_step(model.apply, squared_error).estimate(
        jax.random.key(2), params, (inputs, targets), ()
    )
    assert relative_error(found, exact) > 0.01


def last_of(out):
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])


def test_each_trial_has_noise_of_its_own():
    """Seeds of training, held-out and test trials are others; the trials are those without."""
    plain, noisy = Trials("context", STEPS), Trials("context", STEPS, seeded=True)
    rows, seeds = np.arange(64), []
    for data in (noisy, dataclasses.replace(noisy, validation=True)):
        inputs, own = data.normalise(data.test_examples(rows)[0])
        assert own.shape == (64,)
        seeds += own.tolist()
    inputs, own = noisy.normalise(noisy.train_examples(rows)[0])
    np.testing.assert_array_equal(inputs, plain.train_examples(rows)[0])
    assert len(set(seeds + own.tolist())) == 3 * 64
    assert plain.normalise(inputs) is inputs


def test_noise_reaches_the_network(tmp_path):
    arguments = ["rnn_context", *ARGUMENTS, "--steps", "4", "--log-every", "4"]
    main([*arguments, "--out", str(tmp_path / "noisy")])
    main([*arguments, "--noise", "0", "--out", str(tmp_path / "silent")])
    noisy, silent = last_of(tmp_path / "noisy"), last_of(tmp_path / "silent")
    assert noisy["test_loss"] == pytest.approx(silent["test_loss"], rel=0.5)
    assert noisy["test_loss"] != silent["test_loss"]


def test_a_rotation_is_learned_by_a_network_that_can_reach(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    main(["rnn_reach", *ARGUMENTS, "--steps", "60", "--log-every", "60", "--out", str(before)])
    turned = ["--start", str(before), "--rotation", "0", "--estimator", "backprop"]
    arguments = ["--steps", "2", "--log-every", "1"]
    main(["rnn_reach", *ARGUMENTS, *turned, *arguments, "--out", str(after)])
    first = json.loads((after / "metrics.jsonl").read_text().splitlines()[0])
    assert first["test_loss"] == pytest.approx(last_of(before)["test_loss"], rel=1e-5)
    assert last_of(after)["test_loss"] != first["test_loss"]
    for start, message in (
        (tmp_path / "nothing", "nothing holds no run; make one with --out"),
        (before, r"start is .*before', with parameters .*'output'\]\": \(32, 2\).*takes"),
    ):
        with pytest.raises(UserError, match=message):
            main(["rnn_match", *ARGUMENTS, "--start", str(start), "--out", str(tmp_path / "no")])
        assert not (tmp_path / "no").exists()


def test_images_are_read_row_by_row(tmp_path):
    out = tmp_path / "digits"
    main([
        "rnn_mnist5k", "--data", "digits", "--features", "16", "--rank", "8", "--steps", "4",
        "--log-every", "4", "--batch", "16", "--basis-batch", "32", "--alignment-batch", "32",
        "--devices", "1", "--out", str(out),
    ])  # fmt: skip
    assert set(last_of(out)["alignment"]) == {"state"}


def test_what_does_not_fit_a_task_is_refused():
    for fields, message in (
        ({"model": "mlp"}, "model is 'mlp'; flip_flop takes 'leaky' or 'gru'"),
        ({"features": (8, 8)}, "leaky takes one number of units"),
        ({"leak": 0.0}, "leak is 0.0"),
        ({"rotation": 30.0}, "rotation is 30.0; flip_flop takes 0"),
        ({"time_steps": 5}, "time_steps is 5"),
        ({"probe_rows": 0}, "probe_rows is 0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"noise": 0.1, "model": "gru"}, "noise is 0.1; gru on flip_flop takes 0"),
        ({"estimator": "oracle_subspace"}, "is 'oracle_subspace', which takes one Jacobian"),
        ({"explained_variance": 1.5}, "explained_variance is 1.5; it takes a number above 0"),
        ({"data": "digits", "model": "gru", "leak": 0.5}, "gru on digits does not use it"),
        ({"data": "digits", "time_steps": 20}, "leaky on digits does not use it and takes 50"),
        ({"alignment_batch": 300}, "it takes a number up to 256, or a multiple of 256"),
        ({"data": "digits", "model": "mlp", "estimator": "one_step"}, "has no recurrent weights"),
    ):
        with pytest.raises(UserError, match=message):
            checked(load_config("rnn_flip_flop").replace(**fields))
