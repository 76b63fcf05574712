"""The benchmarks' own arithmetic: laws, intervals, crossings, verdicts."""

import numpy as np
import pytest

from benchmarks import bias, linear, samples, variance
from benchmarks.common import bootstrap, interleaved, write_table
from benchmarks.estimates import bias_and_variance
from benchmarks.linear import Point


@pytest.fixture(autouse=True)
def _no_key_checks():
    """Estimates are vectorised over keys here, which the key checker does not follow."""
    import jax

    with jax.debug_key_reuse(False):
        yield


@pytest.mark.parametrize("kind", ["gaussian", "rademacher", "orthogonal"])
@pytest.mark.parametrize("readout", ["output", "loss"])
@pytest.mark.parametrize("dimension", [4, None])
def test_linear_points_obey_their_law(kind, readout, dimension):
    point = Point("probes", kind, readout, dimension=dimension, probes=3, units=12, batch=2)
    row, scores = linear.measure(point, replicates=3000, seed=0)
    assert len(scores) == 1 + linear.DIRECTIONS
    assert np.abs(scores).max() < 4
    assert row["variance_low"] < row["variance"] < row["variance_high"]
    assert abs(row["bias"] - row["bias_law"]) < 0.05


def test_taps_together_obey_their_law():
    point = Point("scope", scope="all_taps", dimension=4, probes=2, units=12, batch=2)
    _, scores = linear.measure(point, replicates=3000, seed=1)
    assert np.abs(scores).max() < 4


def test_whole_frames_are_exact():
    point = Point("probes", "orthogonal", dimension=4, probes=4, units=12, batch=2)
    row, scores = linear.measure(point, replicates=16, seed=0)
    assert row["exact"]
    assert scores == []


def test_frames_beyond_the_first_follow_the_remainder():
    """Simulated without the library: N = 7 rows of Haar frames of dimension 4."""
    random = np.random.default_rng(0)
    frames = np.linalg.qr(random.normal(size=(4000, 2, 4, 4)))[0] * 2
    rows = frames.reshape(4000, 8, 4)[:, :7]
    slope = np.array([1.0, 2.0, 0.0, -1.0])
    estimates = (rows * (rows @ slope)[..., None]).mean(axis=1)
    measured = ((estimates - slope) ** 2).sum(axis=1) / (slope**2).sum()
    z = (measured.mean() - linear.law("orthogonal", 4, 7)) / (measured.std() / 4000**0.5)
    assert abs(z) < 4


def test_verdict_needs_the_right_spread_and_no_outlier(capsys):
    scores = list(np.random.default_rng(0).normal(size=1000))
    assert variance.verdict(scores, [True])
    assert not variance.verdict([1.3 * s for s in scores], [True])
    assert not variance.verdict([*scores, 5.0], [True])
    assert not variance.verdict(scores, [True, False])
    assert capsys.readouterr().out.count("verdict") == 4


def test_statistics_of_estimates_around_a_biased_mean():
    random = np.random.default_rng(0)
    exact = np.array([3.0, 4.0])
    drawn = exact + np.array([1.0, 0.0]) + 0.5 * random.normal(size=(2000, 2))
    row = bias_and_variance(drawn, exact)
    assert abs(row["bias"] - 1 / 25) < 0.007
    assert abs(row["variance"] - 0.5 / 25) < 0.003
    assert abs(row["signal_to_noise"] - (32 / 0.5)) < 5
    assert row["variance_low"] < row["variance"] < row["variance_high"]


def test_probes_needed_follow_the_law():
    counts = 2 ** np.arange(11)
    cosines = 0.95 / np.sqrt(1 + 100 / counts)
    half, nine, almost = samples._crossings(counts, cosines)
    assert abs(half / (100 / ((0.95 / 0.5) ** 2 - 1)) - 1) < 0.05
    assert abs(nine / (100 / ((0.95 / 0.9) ** 2 - 1)) - 1) < 0.05
    assert almost == np.inf
    extrapolated = samples._crossings(counts[:5], cosines[:5])[0]
    assert abs(extrapolated / half - 1) < 0.1


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = bootstrap(random.normal(size=50), np.mean)
        covered += low < 0 < high
    assert 175 <= covered <= 199


def test_interleaved_times_every_function_in_turn(tmp_path):
    seen = []
    times = interleaved(
        {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, rounds=2, calls=2
    )
    assert seen == ["a", "b", "a", "a", "b", "b", "a", "a", "b", "b"]
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}
    write_table(tmp_path / "t.csv", [{"x": 1.0}, {"y": "z"}])
    assert (tmp_path / "t.csv").read_text().splitlines() == ["x,y", "1,", ",z"]


def test_directions_are_those_of_the_singular_vectors():
    random = np.random.default_rng(0)
    rows = random.normal(size=(12, 4)) @ random.normal(size=(4, 30))
    found = bias.directions(rows, 4)
    expected = np.linalg.svd(rows)[2][:4].T
    np.testing.assert_allclose(np.abs(found.T @ expected), np.eye(4), atol=1e-6)
