"""The claims' measures against what is known, and their commands."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import report
from experiments.analysis.alignment import cumulative_share, leading_directions
from experiments.analysis.dimensionality import MEASURES, components_for, two_nn
from experiments.analysis.rates import noise_of_feedback, trained_rates
from experiments.analysis.statistics import interval
from experiments.claims import (
    accuracy,
    dimensionality,
    efficiency,
    protocol,
    recurrent,
    staleness,
    study,
    width,
)
from experiments.claims.__main__ import main, names
from experiments.claims.study import Study
from experiments.claims.verdicts import judge
from experiments.configs import load_config
from experiments.data import load
from experiments.errors import Diverged, UserError
from experiments.methods import TABLE
from tests.test_similarity import archive

SHORT = [
    *("--data", "digits", "--model", "mlp", "--features", "24", "16", "--strides", "--steps", "6"),
    *("--basis-batch", "64", "--alignment-batch", "64", "--batch", "16", "--rank", "4"),
    *("--devices", "1"),
]
SHORT_TRIALS = [
    *("--time-steps", "12", "--features", "16", "--steps", "6", "--log-every", "6"),
    *("--basis-batch", "16", "--alignment-batch", "32", "--batch", "8", "--rank", "4"),
    *("--devices", "1"),
]


@pytest.fixture(autouse=True)
def _promotion_that_optax_takes():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_two_nn_knows_the_dimension_of_a_bent_manifold(dimension):
    random = np.random.default_rng(0)
    flat = random.uniform(size=(3000, dimension))
    inside = np.concatenate([flat, np.sin(2 * flat)], axis=1)
    turned = inside @ np.linalg.qr(random.normal(size=(30, 2 * dimension)))[0].T
    assert abs(two_nn(turned) / dimension - 1) < 0.1


def test_components_count_the_variance():
    values = np.array([1.0, 4.0, 5.0, 0.0])
    assert [components_for(values, p) for p in (50, 51, 90, 91)] == [1, 2, 2, 3]


def test_dimensions_that_the_number_of_images_limits_are_undecided():
    study = SimpleNamespace(
        seeds=range(3), data=SimpleNamespace(train_inputs=np.zeros((40, 2)), train_size=40)
    )
    for most, verdict in ((12, "supported"), (30, "undecided")):
        rows = [
            {"tap": "a", "seed": seed, "units": units, **dict.fromkeys(MEASURES, most + seed)}
            for seed in range(3)
            for units in (100, 200)
        ]
        assert {found.verdict for found in dimensionality.judged(study, rows)} == {verdict}


def test_exponent_is_the_slope_in_logarithms():
    rows = [{"tap": "a", "seed": 0, "units": n, "size": 3 * n**0.4} for n in (8, 32, 100)]
    assert dimensionality.exponent(rows, "a", 0, "size") == pytest.approx(0.4)


def test_shares_accumulate_and_angles_are_those_of_the_row_space():
    jacobian = jax.numpy.array([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert cumulative_share(jacobian, jax.numpy.eye(4)) == pytest.approx([0.36, 1, 1, 1])
    leading = leading_directions(jacobian)
    np.testing.assert_allclose(np.abs(leading), [[0.6], [0.8], [0], [0]], atol=1e-6)


def test_a_silenced_network_has_no_share():
    jacobian = jax.numpy.zeros((3, 4))
    assert np.isnan(cumulative_share(jacobian, jax.numpy.eye(4))).all()
    assert leading_directions(jacobian).shape == (4, 0)
    assert judge("s", "q", [1.0, float("nan"), 1.1, 0.9]).verdict == "supported"
    assert judge("s", "q", [float("nan")]).verdict == "undecided"


def test_probes_for_equal_accuracy_are_a_ratio():
    """Curves alike but for a factor of 8 in probes."""
    probes = 2.0 ** np.arange(6, 14)
    rows = [
        {"method": method, "seed": 0, "probes": n, "test_accuracy": 1 - (n * factor) ** -0.2}
        for method, factor in (("nmnc", 8), ("vnc", 1))
        for n in probes
    ]
    assert efficiency.ratio_at_equal_accuracy(rows, 0) == pytest.approx(3, abs=0.05)
    apart = [row for row in rows if (row["method"] == "nmnc") == (row["probes"] > 2**12)]
    assert np.isnan(efficiency.ratio_at_equal_accuracy(apart, 0))


def test_verdicts_follow_the_interval():
    noise = np.random.default_rng(0).normal(size=5)
    assert judge("s", "q", 9 + noise).verdict == "supported"
    assert judge("s", "q", noise - 9).verdict == "not supported"
    assert judge("s", "q", noise).verdict == "undecided"
    assert judge("s", "q", [3.0]).verdict == "undecided"
    covered = 0
    for seed in range(400):
        found = judge("s", "q", 1 + np.random.default_rng(seed).normal(size=4))
        covered += found.low < 1 < found.high
    assert abs(covered / 400 - 0.95) < 3 * (0.05 * 0.95 / 400) ** 0.5


@pytest.mark.parametrize("replicates", [2, 3, 5])
def test_verdicts_of_nothing_are_undecided_but_for_one_in_twenty(replicates):
    """Neurons share what differs between seeds, so that many of them decide nothing."""
    random = np.random.default_rng(0)
    tables, neurons = 4000, 50
    seeds = random.normal(size=(replicates, tables, 1))
    samples = (seeds + random.normal(size=(replicates, tables, neurons))).mean(axis=2)
    low, _, high = interval(samples)
    rejected = ((low > 0) | (high < 0)).mean()
    assert rejected <= 0.055 + 3 * (0.05 * 0.95 / tables) ** 0.5
    for table in range(5):
        decided = judge("s", "q", samples[:, table]).verdict != "undecided"
        assert decided == bool((low[table] > 0) | (high[table] < 0))


def test_a_part_is_measured_once(tmp_path):
    study = Study(tmp_path, None, range(2), False, None)
    measured = []

    def make():
        measured.append(1)
        return [{"value": 0.1}]

    assert study.part("x", make) == study.part("x", make) == [{"value": 0.1}]
    assert len(measured) == 1


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", names())
def test_claims_run_and_go_on(name, tmp_path, capsys, monkeypatch):
    # As few settings as there may be: each is compiled.
    monkeypatch.setattr(efficiency, "DECAYS", (0.0, 0.9))
    monkeypatch.setattr(accuracy, "SEARCHED", {f: v[:1] for f, v in accuracy.SEARCHED.items()})
    monkeypatch.setattr(accuracy, "METHODS", ("backprop", "nmnc", "dfa"))
    monkeypatch.setattr(width, "WIDTHS", (1, 2))
    monkeypatch.setattr(staleness, "DECAYS", (0.9,))
    monkeypatch.setattr(staleness, "REFRESHES", (2,))
    monkeypatch.setattr(staleness, "SIGMAS", (1e-3, 1.0))
    monkeypatch.setattr(recurrent, "TASKS", ("flip_flop",))
    monkeypatch.setattr(recurrent, "PROBES", (4,))
    monkeypatch.setattr(recurrent, "SIZES", (16,))
    monkeypatch.setattr(protocol, "REFRESHES", (2,))
    monkeypatch.setattr(protocol, "RANKS", (4,))
    few = {method: TABLE[method] for method in ("backprop", "vnc", "nmnc", "one_step")}
    monkeypatch.setattr(protocol, "TABLE", few)
    short = SHORT_TRIALS if name == "recurrent" else SHORT
    if name == "protocol":
        short = [*short, "--train-images", "300", "--rank", "4", "--update-every", "2"]
    out = tmp_path / "claim"
    seeds = ["--seeds", "2" if name == "efficiency" else "1"]
    if name == "similarity":
        with pytest.raises(UserError, match="similarity takes recordings: --neural PATH"):
            main([name, *short, *seeds, "--out", str(tmp_path / "none")])
        random = np.random.default_rng(0)
        responses, rdms = random.normal(size=(2, 6, 3)), np.abs(random.normal(size=(2, 6, 6)))
        path = archive(tmp_path / "v4.zip", responses=responses, rdms_it=rdms)
        seeds += ["--neural", str(path)]
    main([name, *short, *seeds, "--out", str(out)])
    output = capsys.readouterr().out
    assert "verdict: " in output
    assert ": measured" in output
    for suffix in ("csv", "png"):
        assert (out / f"{name}.{suffix}").stat().st_size > 300
    verdicts = json.loads((out / "verdicts.json").read_text())
    assert {v["verdict"] for v in verdicts} <= {"supported", "not supported", "undecided"}
    table = (out / f"{name}.csv").read_text()
    assert ("chosen_rank" in table) == (name == "recurrent")
    main([name, *short, *seeds, "--out", str(out), "--resume"])
    assert ": measured" not in capsys.readouterr().out
    assert (out / f"{name}.csv").read_text() == table


def test_a_claim_goes_on_as_it_began(tmp_path):
    out = ["--out", str(tmp_path / "claim")]
    main(["dimensionality", *SHORT, "--seeds", "1", *out])
    with pytest.raises(UserError, match=r"seeds is 2; the claim in .* has 1"):
        main(["dimensionality", *SHORT, "--seeds", "2", *out, "--resume"])
    with pytest.raises(UserError, match=r"claim is 'alignment'; the claim in .* has 'dimens"):
        main(["alignment", *SHORT, "--seeds", "1", "--log-every", "300", *out, "--resume"])
    with pytest.raises(UserError, match="which is not empty"):
        main(["dimensionality", *SHORT, "--seeds", "1", *out])


def test_unknown_claims_are_refused():
    with pytest.raises(UserError, match=r"claim is 'speed'; .* takes one of .'accuracy'"):
        main(["speed"])
    with pytest.raises(UserError, match="seeds is 0; it takes at least 1"):
        main(["alignment", "--seeds", "0"])


def test_claims_take_the_data_that_they_are_about():
    with pytest.raises(UserError, match=r"data is 'digits'; claim recurrent takes one of"):
        main(["recurrent", "--data", "digits"])
    with pytest.raises(UserError, match="data is 'reach'; claim alignment takes images"):
        main(["alignment", "--data", "reach", "--model", "gru", "--features", "8"])


def test_a_run_that_diverges_counts_as_it_was_before(monkeypatch, tmp_path):
    def diverge(trainer, config, data, report):
        report({"test_accuracy": 0.5, "test_loss": 1.0})
        raise Diverged("the loss is nan at step 1; stopped there")

    monkeypatch.setattr(study, "train", diverge)
    monkeypatch.setattr(study, "make_trainer", lambda config, data: None)
    rows = study.trained(
        Study(tmp_path, load_config("digits"), range(2), False, None), load_config("digits")
    )
    for seed, row in enumerate(rows):
        assert (row["seed"], row["test_loss"]) == (seed, 1.0)
        assert row["diverged"] == "the loss is nan at step 1; stopped there"


def test_probes_for_a_loss_are_read_between_the_points():
    probes, measured = [4, 16, 64], np.array([0.8, 0.4, 0.5])
    assert recurrent.probes_needed(probes, measured, 0.6) == pytest.approx(3)
    assert recurrent.probes_needed(probes, measured, 0.4) == pytest.approx(4)
    assert recurrent.probes_needed(probes, measured, 0.3) == pytest.approx(7)


def test_recurrent_networks_are_judged_by_the_rank_that_they_chose():
    losses = {
        ("backprop", 4): {0: 1.0},
        ("vnc", 4): {4: 4.0, 32: 1.1},
        ("nmnc", 2): {4: 3.0, 32: 3.0},
        ("nmnc", 4): {4: 2.2, 32: 2.2},
        ("nmnc", "chosen"): {4: 1.1, 32: 1.1},
    }
    rows = [
        {"task": "match", "units": 8, "method": method, "rank": rank, "probes": probes,
         "seed": seed, "test_loss": loss * (1 + 0.01 * seed)}
        for (method, rank), curve in losses.items() for probes, loss in curve.items()
        for seed in range(3)
    ]  # fmt: skip
    verdicts = {v.statement.removeprefix("match, 8 units: "): v for v in recurrent.judged(rows)}
    ahead = verdicts["with 4 probes a step nmnc learns more"]
    assert (ahead.verdict, ahead.mean) == ("supported", pytest.approx(np.log2(4 / 1.1)))
    assert verdicts["with 32 probes a step nmnc learns more"].mean == pytest.approx(0)
    best = "probes the rank chosen on the run learns more than the best fixed one (4)"
    assert [verdicts[f"with {p} {best}"].mean for p in (4, 32)] == pytest.approx([1, 1])
    fewer = verdicts["nmnc needs fewer probes for 1.2 times backpropagation's loss"]
    assert fewer.mean == pytest.approx(3 * (4 - 1.2) / (4 - 1.1))


def test_noise_of_learned_recurrent_weights_has_the_radius_of_independent_entries():
    fields = {"features": (64,), "estimator": "vnc", "probe_rows": 32, "devices": 1}
    config = load_config("rnn_flip_flop").replace(**fields)
    (row,) = noise_of_feedback(config, load(config))
    assert row["radius"] == pytest.approx(row["law"], rel=0.15)
    # 32 rows in a step, and a decay of .9: 608 behind the feedback.
    assert row["law"] == pytest.approx((64 / 608) ** 0.5, rel=0.05)


def test_rates_are_those_of_a_noisy_network_too():
    fields = {"features": (8,), "rank": 4, "steps": 1, "time_steps": 12, "devices": 1, "noise": 0.1}
    config = load_config("rnn_match").replace(alignment_batch=32, **fields)
    rates, targets, _ = trained_rates(config, load(config), 3)
    assert rates.shape == (3, 12, 8)
    assert targets.shape == (3, 12, 2)
    (row,) = noise_of_feedback(config, load(config))
    assert np.isfinite(row["radius"])


def test_the_report_holds_all_it_shows(tmp_path, capsys):
    with pytest.raises(UserError, match="holds no claim; make one with --out"):
        report.main([str(tmp_path)])
    main(["dimensionality", *SHORT, "--seeds", "1", "--out", str(tmp_path / "digits")])
    report.main([str(tmp_path)])
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "src='http" not in page
    assert f"python -m experiments.claims dimensionality {SHORT[0]}" in page
    assert jax.__version__ in page
    for verdict in json.loads((tmp_path / "digits" / "verdicts.json").read_text()):
        assert verdict["statement"] in page
        assert f"{verdict['mean']:.3g}" in page


def test_the_lead_over_width_and_the_law_are_read_from_the_rows():
    rows = [
        {"method": method, "width": w, "seed": 0, "test_accuracy": 0.1 * np.log2(w) * factor}
        for w in (0.5, 1, 4)
        for method, factor in (("nmnc", -1), ("vnc", -3))
    ]
    assert width.slope(rows, "test_accuracy", 0) == pytest.approx(0.2)
    point = {"seed": 0, "rank": 4, "units": 16, "share": 0.5, "crossover": 0.6, "vnc": 0.3}
    law = [{**point, "nmnc": 0.4}, {**point, "nmnc": 0.2}, {**point, "nmnc": 0.1}]
    assert width.agreement(law, 0, "d/n") == pytest.approx(1 / 3)
    assert width.agreement(law, 0, "crossover") == pytest.approx(2 / 3)


def test_the_search_leaves_a_method_what_it_has():
    assert accuracy.matters("nmnc", "basis_update_every")
    assert not accuracy.matters("vnc", "rank")
    assert not accuracy.matters("backprop", "feedback_decay")
    assert accuracy.matters("dfa", "learning_rate")
