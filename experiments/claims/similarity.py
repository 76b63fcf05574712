"""Networks that noise correlation trains come close to the primate visual system.

For each tap of networks trained by each rule, of an untrained one and for pixels, with the
recordings that --neural names: ridge and partial-least-squares predictivity of each neuron (five
folds), debiased linear kernel alignment, the correlation of dissimilarities with each subject's;
with noise ceilings where repeats or subjects tell them. No tap is chosen: verdicts are of the mean
over taps.
"""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import similarity
from experiments.activity import recorder
from experiments.claims.study import Row, Study, Verdict, band, judge, judge_resampled
from experiments.config import UserError
from experiments.data.neural import Neural, load_neural
from experiments.figures import COLOURS
from experiments.loop import through_training

DEFAULTS: dict[str, Any] = {"steps": 600, "log_every": 600, "rank": 256}
RULES = ("backprop", "nmnc", "vnc", "dfa")
UNTRAINED = "untrained"
PLAIN = {UNTRAINED: "tab:green", "pixels": "black"}


def compare(features: np.ndarray, recording: Neural) -> list[Row]:
    """Every measure that a recording allows."""
    rows: list[Row] = []
    if recording.responses is not None:
        responses = np.nanmean(recording.responses, axis=0).astype(float)
        ridge = similarity.ridge_predictivity(features, responses)
        pls = similarity.pls_predictivity(features, responses)
        rows = [
            {"metric": "ridge", "value": float(np.median(ridge)), "neurons": ridge.tolist()},
            {"metric": "pls", "value": float(np.median(pls))},
            {"metric": "cka", "value": similarity.debiased_cka(features, responses)},
        ]
    for name, rdms in recording.rdms.items():
        value = float(similarity.rdm_similarity(features, rdms).mean())
        rows.append({"metric": f"rsa {name}", "value": value})
    return [{"recording": recording.name, **row} for row in rows]


def one_network(study: Study, recordings: list[Neural], rule: str, seed: int) -> list[Row]:
    """Rows of every tap of one network."""
    estimator = "backprop" if rule == UNTRAINED else rule
    steps = 0 if rule == UNTRAINED else study.config.steps
    config = dataclasses.replace(study.config, estimator=estimator, seed=seed)
    ((_, params),) = through_training(config, study.data, [steps])
    activity = recorder(config, study.data, params)
    return [
        {"rule": rule, "seed": seed, "tap": tap, **row}
        for recording in recordings
        for tap, features in activity(study.data.presented(recording.images)).items()
        for row in compare(features.astype(float), recording)
    ]


def pixels(recordings: list[Neural]) -> list[Row]:
    """Rows of the images themselves."""
    return [
        {"rule": "pixels", "seed": 0, "tap": "pixels", **row}
        for recording in recordings
        for row in compare(recording.images.reshape(len(recording.images), -1) / 255, recording)
    ]


def ceilings(recordings: list[Neural]) -> list[Row]:
    """What a perfect model would reach, where it can be told."""
    rows: list[Row] = []
    for recording in recordings:
        responses = recording.responses
        if responses is not None and len(responses) > 1:
            value = float(np.median(similarity.split_half_ceiling(responses)))
            rows.append({"recording": recording.name, "metric": "ridge", "value": value})
        for name, rdms in recording.rdms.items():
            low, _ = similarity.rdm_ceiling(rdms)
            if np.isfinite(low):
                found = {"recording": recording.name, "metric": f"rsa {name}", "value": low}
                rows.append(found)
    return [{"rule": "ceiling", "seed": 0, "tap": "", **row} for row in rows]


def judged(study: Study, rows: list[Row]) -> list[Verdict]:
    """NMNC against every other rule, by neuron where there are any."""
    verdicts = []
    kinds = dict.fromkeys((row["recording"], row["metric"]) for row in rows)

    def mean_over_taps(rule: str, seed: int, kind: tuple[str, str], column: str) -> np.ndarray:
        some = [row[column] for row in rows
                if (row["rule"], row["seed"]) == (rule, seed)
                and (row["recording"], row["metric"]) == kind]  # fmt: skip
        return np.mean(some, axis=0)

    for kind in kinds:
        recording, metric = kind
        by_neuron = metric == "ridge"
        if not (by_neuron or metric.startswith("rsa")):
            continue
        column = "neurons" if by_neuron else "value"
        for other in ("vnc", "backprop", UNTRAINED):
            differences = np.array(
                [
                    mean_over_taps("nmnc", seed, kind, column)
                    - mean_over_taps(other, seed, kind, column)
                    for seed in study.seeds
                ]
            )
            decide = judge_resampled if by_neuron else judge
            statement = f"nmnc comes closer to {recording} than {other} ({metric})"
            verdicts.append(decide(statement, "difference, mean over taps", differences))
    return verdicts


def draw(study: Study, rows: list[Row]) -> Figure:
    """Each measure of each recording over the taps."""
    kinds = list(dict.fromkeys((row["recording"], row["metric"]) for row in rows))
    taps = list(dict.fromkeys(row["tap"] for row in rows if row["rule"] == RULES[0]))
    columns = min(4, len(kinds))
    lines = -(-len(kinds) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.2 * lines + 0.6), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    for panel in panels[len(kinds) :]:
        panel.axis("off")
    for panel, (recording, metric) in zip(panels, kinds, strict=False):
        some = [row for row in rows if (row["recording"], row["metric"]) == (recording, metric)]
        for rule in (*RULES, UNTRAINED):
            points = [{"at": taps.index(row["tap"]), "value": row["value"]}
                      for row in some if row["rule"] == rule]  # fmt: skip
            colour = COLOURS.get(rule, PLAIN.get(rule, ""))
            band(panel, points, "at", "value", colour=colour, label=rule)
        for rule, style in (("pixels", ":"), ("ceiling", "--")):
            for row in some:
                if row["rule"] == rule:
                    panel.axhline(row["value"], color="gray", linestyle=style, label=rule)
        panel.set_xticks(range(len(taps)), taps)
        panel.set_title(f"{recording}: {metric}", fontsize=9)
        panel.set_ylabel("alignment" if metric == "cka" else "correlation", fontsize=8)
    # Not every recording tells a ceiling.
    shown = {label: handle for panel in panels[: len(kinds)]
             for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}  # fmt: skip
    figure.legend(
        shown.values(), shown, loc="outside lower center", ncols=len(shown), frameon=False
    )
    figure.suptitle(f"Similarity to recordings, trained on {study.data_name}: mean and 95 % "
                    f"interval of {len(study.seeds)} seeds")  # fmt: skip
    return figure


def main(study: Study) -> None:
    """Measures, judges and draws."""
    if not study.neural:
        raise UserError("similarity takes recordings: --neural PATH ...")
    side = study.data.train_inputs.shape[1]
    recordings = [load_neural(path.expanduser(), side) for path in study.neural]
    rows = study.part("pixels", partial(pixels, recordings))
    rows += study.part("ceilings", partial(ceilings, recordings))
    for seed in study.seeds:
        for rule in (*RULES, UNTRAINED):
            name = f"{rule}-seed{seed}"
            rows += study.part(name, partial(one_network, study, recordings, rule, seed))
    verdicts = judged(study, rows)
    table = [{k: v for k, v in row.items() if k != "neurons"} for row in rows]
    study.finish("similarity", table, verdicts, draw(study, rows))
