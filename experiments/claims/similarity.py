"""Networks that noise correlation trains come close to the primate visual system.

The measures compare each tap of networks trained by each rule, of an untrained network, and pixels
with the recordings that --neural names. They are ridge and partial-least-squares predictivity of
each neuron (five folds), debiased linear kernel alignment, and the correlation of dissimilarities
with those of each subject, with noise ceilings if there are repeats or subjects. Neurons without
varying responses are left out and counted, as are images that leave a tap silent, for the
dissimilarities. No tap is selected: verdicts use the mean over taps and neurons. The replicates are
seeds for one recording, and animals, whose sessions are averaged, for several.
"""

from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.analysis import similarity
from experiments.analysis.activity import recorder
from experiments.analysis.tables import where
from experiments.claims.study import Row, Study, band
from experiments.claims.verdicts import Verdict, judge
from experiments.data.neural import Neural, load_neural
from experiments.errors import UserError
from experiments.files import expanded
from experiments.methods import COLOURS
from experiments.training.loop import through_training

DEFAULTS: dict[str, Any] = {"steps": 600, "log_every": 600, "rank": 256}
RULES = ("backprop", "nmnc", "vnc", "dfa")
UNTRAINED = "untrained"
PLAIN = {UNTRAINED: "tab:green", "pixels": "black"}


def compare(features: np.ndarray, recording: Neural) -> list[Row]:
    """Returns every measure that a recording allows."""
    rows: list[Row] = []
    if recording.responses is not None:
        answers = similarity.answering(recording.responses)
        responses = similarity.mean_over_repeats(recording.responses[:, :, answers])
        ridge = similarity.ridge_predictivity(features, responses)
        pls = similarity.pls_predictivity(features, responses)
        rows = [
            {"metric": "ridge", "value": float(np.median(ridge)), "neurons": ridge.tolist()},
            {"metric": "pls", "value": float(np.median(pls))},
            {"metric": "cka", "value": similarity.debiased_cka(features, responses)},
        ]
    for name, rdms in recording.rdms.items():
        value = float(similarity.rdm_similarity(features, rdms).mean())
        silent = similarity.silent_images(features)
        rows.append({"metric": f"rsa {name}", "value": value, "silent_images": silent})
    return [{"recording": recording.name, **row} for row in rows]


def one_network(study: Study, recordings: list[Neural], rule: str, seed: int) -> list[Row]:
    """Returns the rows of every tap of one network."""
    estimator = "backprop" if rule == UNTRAINED else rule
    steps = 0 if rule == UNTRAINED else study.config.run.steps
    config = study.config.replace(estimator=estimator, seed=seed)
    ((_, params),) = through_training(config, study.data, [steps])
    activity = recorder(config, study.data, params)
    return [
        {"rule": rule, "seed": seed, "tap": tap, **row}
        for recording in recordings
        for tap, features in activity(study.data.presented(recording.images)).items()
        for row in compare(features.astype(float), recording)
    ]


def pixels(recordings: list[Neural]) -> list[Row]:
    """Returns the rows of the pixels."""
    return [
        {"rule": "pixels", "seed": 0, "tap": "pixels", **row}
        for recording in recordings
        for row in compare(recording.images.reshape(len(recording.images), -1) / 255, recording)
    ]


def ceilings(recordings: list[Neural]) -> list[Row]:
    """Returns what a perfect model would reach, if it can be estimated."""
    rows: list[Row] = []
    for recording in recordings:
        responses = recording.responses
        if responses is not None and len(responses) > 1:
            answers = similarity.answering(responses)
            found = similarity.split_half_ceiling(responses[:, :, answers])
            known = found[np.isfinite(found)]
            if len(known):
                left_out = responses.shape[2] - len(known)
                rows.append({"recording": recording.name, "metric": "ridge",
                             "value": float(np.median(known)),
                             "neurons_left_out": left_out})  # fmt: skip
        for name, rdms in recording.rdms.items():
            low, _ = similarity.rdm_ceiling(rdms)
            if np.isfinite(low):
                found = {"recording": recording.name, "metric": f"rsa {name}", "value": low}
                rows.append(found)
    return [{"rule": "ceiling", "seed": 0, "tap": "", **row} for row in rows]


def judged(study: Study, rows: list[Row], animals: dict[str, str]) -> list[Verdict]:
    """Compares NMNC with every other rule, over seeds for each recording and over animals for all.

    Args:
        study: the study, for its seeds.
        rows: the rows of all networks.
        animals: recording to its animal, if it is known.
    """
    verdicts = []
    metrics: dict[str, list[str]] = {}
    for recording, metric in dict.fromkeys((row["recording"], row["metric"]) for row in rows):
        if metric == "ridge" or metric.startswith("rsa"):
            metrics.setdefault(metric, []).append(recording)
    quantity = "difference, mean over taps"
    for metric, recordings in metrics.items():
        for other in ("vnc", "backprop", UNTRAINED):
            ahead = {name: _ahead(study, rows, name, metric, other) for name in recordings}
            for name, differences in ahead.items():
                statement = f"nmnc comes closer to {name} than {other} ({metric})"
                verdicts.append(judge(statement, quantity, differences))
            by_animal: dict[str, list[float]] = {}
            for name in recordings:
                if animals.get(name):
                    by_animal.setdefault(animals[name], []).append(float(ahead[name].mean()))
            if len(by_animal) > 1:
                statement = f"nmnc comes closer to animals like these than {other} ({metric})"
                means = [np.mean(sessions) for sessions in by_animal.values()]
                verdicts.append(judge(statement, quantity, means, unit="animal"))
    return verdicts


def _ahead(study: Study, rows: list[Row], recording: str, metric: str, other: str) -> np.ndarray:
    """Returns the lead of nmnc over another rule, for each seed."""
    column = "neurons" if metric == "ridge" else "value"

    def mean(rule: str, seed: int) -> float:
        some = where(rows, rule=rule, seed=seed, recording=recording, metric=metric)
        return float(np.mean(some[column].tolist()))

    return np.array([mean("nmnc", seed) - mean(other, seed) for seed in study.seeds])


def draw(study: Study, rows: list[Row]) -> Figure:
    """Draws each measure of each recording over the taps."""
    kinds = list(dict.fromkeys((row["recording"], row["metric"]) for row in rows))
    taps = list(dict.fromkeys(row["tap"] for row in rows if row["rule"] == RULES[0]))
    columns = min(4, len(kinds))
    lines = -(-len(kinds) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.2 * lines + 0.6), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    for panel in panels[len(kinds) :]:
        panel.axis("off")
    for panel, (recording, metric) in zip(panels, kinds, strict=False):
        some = where(rows, recording=recording, metric=metric)
        for rule in (*RULES, UNTRAINED):
            points = where(some, rule=rule).assign(at=lambda table: table["tap"].map(taps.index))
            colour = COLOURS.get(rule, PLAIN.get(rule, ""))
            band(panel, points, "at", "value", colour=colour, label=rule)
        for rule, style in (("pixels", ":"), ("ceiling", "--")):
            for value in where(some, rule=rule)["value"]:
                panel.axhline(value, color="gray", linestyle=style, label=rule)
        panel.set_xticks(range(len(taps)), taps)
        panel.set_title(f"{recording}: {metric}", fontsize=9)
        panel.set_ylabel("alignment" if metric == "cka" else "correlation", fontsize=8)
    # Not every recording has a ceiling.
    shown = {label: handle for panel in panels[: len(kinds)]
             for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}  # fmt: skip
    figure.legend(
        shown.values(), shown, loc="outside lower center", ncols=len(shown), frameon=False
    )
    figure.suptitle(f"Similarity to recordings, trained on {study.data_name}: mean and 95 % "
                    f"interval of {len(study.seeds)} seeds")  # fmt: skip
    return figure


def check(recording: Neural) -> None:
    """Checks that a recording can be compared, and prints how many neurons are left out.

    Raises:
        UserError: if it has too few images, or no neuron whose responses vary.
    """
    count = len(recording.images)
    if count < similarity.FOLDS:
        raise UserError(
            f"{recording.name} has {count} images; similarity takes at least {similarity.FOLDS}"
        )
    if recording.responses is None:
        return
    answers = similarity.answering(recording.responses)
    if not answers.any():
        raise UserError(f"{recording.name} has no neuron whose responses are known and vary")
    if not answers.all():
        print(
            f"{recording.name}: {(~answers).sum()} of {len(answers)} neurons left out: they are "
            "silent, equal for all images or unknown for some",
            flush=True,
        )


def say_silent(rows: list[Row]) -> None:
    """Prints how many images leave a tap silent, which its dissimilarities leave out."""
    silent = {(row["recording"], row["rule"], row["tap"]): row["silent_images"]
              for row in rows if row.get("silent_images")}  # fmt: skip
    for (recording, rule, tap), count in silent.items():
        print(f"{recording}: {count} images leave {tap} of {rule} silent: left out of its rsa")


def main(study: Study) -> None:
    """Measures, judges and draws."""
    if not study.neural:
        raise UserError("similarity takes recordings: --neural PATH ...")
    side = study.data.train_inputs.shape[1]
    recordings = [load_neural(expanded(path), side) for path in study.neural]
    for recording in recordings:
        check(recording)
    rows = study.part("pixels", partial(pixels, recordings))
    rows += study.part("ceilings", partial(ceilings, recordings))
    for seed in study.seeds:
        for rule in (*RULES, UNTRAINED):
            name = f"{rule}-seed{seed}"
            rows += study.part(name, partial(one_network, study, recordings, rule, seed))
    say_silent(rows)
    verdicts = judged(study, rows, {each.name: each.animal for each in recordings})
    table = [{k: v for k, v in row.items() if k != "neurons"} for row in rows]
    study.finish("similarity", table, verdicts, draw(study, rows))
