"""The field's table: settings searched alike, what is done is kept, differences that stand."""

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest

from experiments import leaderboard
from experiments.board import cells, tasks
from experiments.board.cells import FINAL, REGIMES, draws
from experiments.board.summary import completed, markdown
from experiments.errors import UserError
from experiments.methods import TABLE
from nmnc_jax import METHODS

TINY = ["--tasks", "digits", "binary", "--methods", "backprop", "dfa", "--draws", "1", "--seeds",
        "1", "--steps", "2"]  # fmt: skip


@pytest.fixture(autouse=True)
def _promotion_that_optax_takes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_every_method_of_the_library_is_in_the_table():
    names = {"dfa" if name == "direct_feedback_alignment" else name for name in METHODS}
    assert names <= {name for name, entry in TABLE.items() if not entry.control}


@pytest.mark.parametrize("method", TABLE)
def test_draws_are_within_their_space_and_configurations_take_them(method):
    space = TABLE[method].space
    tried = draws(method, 8)
    assert tried == draws(method, 8)
    for field, scale in space.items():
        values = np.array([settings[field] for settings in tried])
        inside = 1 - values if scale.below_one else values
        assert (inside >= 0.99 * scale.low).all()
        assert (inside <= 1.01 * scale.high).all()
        # Evenly in logarithms: half of eight places on either side of the middle.
        middle = np.sqrt(scale.low * scale.high)
        assert 3 <= (inside < middle).sum() <= 5
    tasks.TASKS["digits"].config.replace(estimator=method, **tried[0])


def test_all_methods_try_the_same_learning_rates():
    rates = {method: [row["learning_rate"] for row in draws(method, 6)] for method in TABLE}
    assert len({tuple(values) for values in rates.values()}) == 1


def line(method, task, scores, chance=0.1, regime=REGIMES[0]):
    return {"method": method, "task": task, "regime": regime, "chance": chance,
            "score": float(np.mean(scores)), "low": 0.0, "high": 1.0,
            "scores": " ".join(f"{score:.4f}" for score in scores)}  # fmt: skip


def test_shares_are_of_the_way_from_chance_to_backpropagation():
    rows = [line("backprop", "a", [0.9, 0.9]), line("nmnc", "a", [0.5, 0.5])]
    assert [row["share"] for row in completed(rows)] == pytest.approx([1, 0.5])


def test_corrected_tests_seldom_find_what_is_not_there():
    """Of 80 tables of 8 methods without any difference at most one in ten names one."""
    random = np.random.default_rng(0)
    found = 0
    for _ in range(80):
        rows = [line(f"m{n}", "a", random.normal(0.5, 0.1, size=4)) for n in range(7)]
        rows.append(line("nmnc", "a", random.normal(0.5, 0.1, size=4)))
        found += any(row["p"] < 0.05 for row in completed(rows))
    assert found <= 8
    far = [line("nmnc", "a", [0.50, 0.51, 0.49]), line("m", "a", [0.3, 0.312, 0.289])]
    assert "▼" in markdown(completed(far), REGIMES[0])


def test_a_table_is_killed_and_goes_on(tmp_path, monkeypatch, capsys):
    out = ["--out", str(tmp_path / "table")]
    trained, done = cells._trained_and_tested, []

    def killed(config, *others):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(config)
        return trained(config, *others)

    monkeypatch.setattr(cells, "_trained_and_tested", killed)
    with pytest.raises(KeyboardInterrupt):
        leaderboard.main([*TINY, *out])
    kept = {path.name: path.read_bytes() for path in (tmp_path / "table" / "runs").iterdir()}
    monkeypatch.setattr(cells, "_trained_and_tested", trained)
    leaderboard.main([*TINY, *out, "--resume"])
    for name, content in kept.items():
        assert (tmp_path / "table" / "runs" / name).read_bytes() == content
    table = pd.read_csv(tmp_path / "table" / "leaderboard.csv")
    assert len(table) == 2 * 2 * len(REGIMES)
    assert set(table.task) == {"digits", "binary"}
    assert (table[table.method == "dfa"].operations < 1).all()
    assert (tmp_path / "table" / "leaderboard.png").stat().st_size > 10_000
    # Held-out data and the final runs' have no seed in common.
    assert max(config.run.seed for config in done if config.data.validation) < FINAL
    with pytest.raises(UserError, match=r"draws is 2; the table in .* has 1"):
        leaderboard.main([*TINY, *out, "--resume", "--draws", "2"])


def test_a_table_keeps_to_its_images(tmp_path):
    options = leaderboard.Options(data_path="a.zip", draws=1)
    leaderboard._same_protocol(tmp_path, dataclasses.replace(options, data_path=""))
    for _ in range(2):
        leaderboard._same_protocol(tmp_path, options)
    with pytest.raises(UserError, match=r"data_path is .*b.zip; the table in .* has .*a.zip"):
        leaderboard._same_protocol(tmp_path, dataclasses.replace(options, data_path="b.zip"))
    leaderboard._same_protocol(tmp_path, dataclasses.replace(options, data_path=""))


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="unknown task 'chess'; there are digits, photos"):
        leaderboard.main(["--tasks", "chess"])
    with pytest.raises(UserError, match="draws is 0; it takes at least 1"):
        leaderboard.main(["--draws", "0"])
    refused = ["--tasks", "flip_flop", "--methods", "mirror", "--out", str(tmp_path / "none")]
    with pytest.raises(UserError, match="none of them takes one of the tasks"):
        leaderboard.main([*refused, "--steps", "2"])
