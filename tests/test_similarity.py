"""Similarity of networks and neurons: known truth, and independent implementations."""

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.made_imagenet import encoded, photo
from experiments.analysis import similarity
from experiments.claims import similarity as claim
from experiments.claims.study import Study
from experiments.data.neural import Neural, load_neural
from experiments.errors import UserError


def linear_neurons(images=200, units=30, neurons=5, noise=0.0, seed=0):
    random = np.random.default_rng(seed)
    features = random.normal(size=(images, units))
    weights = random.normal(size=(units, neurons))
    responses = features @ (weights / np.linalg.norm(weights, axis=0))
    return features, responses + noise * random.normal(size=responses.shape)


@pytest.mark.parametrize("method", [similarity.ridge_predictivity, similarity.pls_predictivity])
def test_predictivity_is_one_for_linear_neurons_and_zero_for_noise(method):
    features, responses = linear_neurons()
    assert method(features, responses).min() > 0.99
    shuffled = responses[np.random.default_rng(1).permutation(len(responses))]
    assert np.abs(method(features, shuffled)).max() < 4 / len(responses) ** 0.5
    # Half the variance is noise: a perfect model reaches sqrt(1/2).
    features, responses = linear_neurons(images=3000, noise=1.0)
    np.testing.assert_allclose(method(features, responses), 0.5**0.5, atol=0.05)


def test_ridge_is_scikit_learns():
    features, responses = linear_neurons(noise=0.5)
    from sklearn.linear_model import RidgeCV

    model = make_pipeline(StandardScaler(), RidgeCV(30 * 10.0 ** np.arange(-3, 3)))
    folds = KFold(5, shuffle=True, random_state=0)
    for neuron in range(2):
        predicted = cross_val_predict(model, features, responses[:, neuron], cv=folds)
        expected = stats.pearsonr(predicted, responses[:, neuron]).statistic
        ours = similarity.ridge_predictivity(features, responses)[neuron]
        assert ours == pytest.approx(expected, abs=1e-6)


def test_partial_least_squares_are_the_same_in_fewer_coordinates(monkeypatch):
    features, responses = linear_neurons(images=40, units=300, noise=0.5)
    found = similarity.pls_predictivity(features, responses)
    monkeypatch.setattr(similarity, "_coordinates", lambda features, train: features)
    np.testing.assert_allclose(found, similarity.pls_predictivity(features, responses), atol=1e-6)


def test_animals_are_replicates_and_their_sessions_are_not():
    """Three sessions of two animals: by 0 and .2 of the one, in the mean .1, and by .3."""
    ahead = {"a": 0.0, "b": 0.2, "c": 0.3}
    rows = [
        {"rule": rule, "seed": seed, "tap": "t", "recording": name, "metric": "rsa it",
         "value": ahead[name] if rule == "nmnc" else 0.0}
        for name in ahead for rule in (*claim.RULES, claim.UNTRAINED) for seed in (0, 1)
    ]  # fmt: skip
    study = Study(Path(), None, range(2), False, None)
    verdicts = claim.judged(study, rows, {"a": "x", "b": "x", "c": "y"})
    (found, *_) = [v for v in verdicts if "animals" in v.statement]
    assert found.mean == pytest.approx(0.2)
    assert found.verdict == "undecided"
    assert "2 animals" in found.test
    alone = claim.judged(study, rows, {"a": "x", "b": "x"})
    assert not [v for v in alone if "animals" in v.statement]


def test_ceiling_is_the_reliability_of_the_mean():
    random = np.random.default_rng(0)
    signal = random.normal(size=(1, 2000, 3))
    responses = signal + 2 * random.normal(size=(6, 2000, 3))
    expected = (1 / (1 + 4 / 6)) ** 0.5
    np.testing.assert_allclose(similarity.split_half_ceiling(responses), expected, atol=0.03)
    responses[random.uniform(size=responses.shape) < 0.3] = np.nan
    assert np.all(similarity.split_half_ceiling(responses) < expected)
    assert np.all(similarity.split_half_ceiling(responses) > 0.5)


def test_dissimilarities_agree_with_scipys():
    features = np.random.default_rng(0).normal(size=(20, 40))
    from scipy.spatial.distance import pdist

    ours = similarity.upper(similarity.dissimilarity(features))
    np.testing.assert_allclose(ours, pdist(features, "correlation"), atol=1e-10)
    own = similarity.dissimilarity(features)
    scores = similarity.rdm_similarity(features, np.stack([own, own**3, -own]))
    np.testing.assert_allclose(scores, [1, 1, -1], atol=1e-9)


def test_ceiling_of_dissimilarities_holds_the_truth_between():
    random = np.random.default_rng(0)
    truth = similarity.dissimilarity(random.normal(size=(30, 20)))
    noise = random.normal(size=(8, 30, 30))
    subjects = truth + 0.2 * (noise + noise.swapaxes(1, 2))
    low, high = similarity.rdm_ceiling(subjects)
    score = np.mean([stats.spearmanr(similarity.upper(truth), similarity.upper(s)).statistic
                     for s in subjects])  # fmt: skip
    assert low < score < high
    assert np.isnan(similarity.rdm_ceiling(subjects[:1])).all()


def test_debiased_alignment_is_zero_for_strangers_and_one_for_a_rotation():
    random = np.random.default_rng(0)
    left = random.normal(size=(40, 200))
    turned = left @ np.linalg.qr(random.normal(size=(200, 200)))[0]
    assert similarity.debiased_cka(left, 3 * turned) == pytest.approx(1)
    strangers = [
        similarity.debiased_cka(random.normal(size=(40, 200)), random.normal(size=(40, 200)))
        for _ in range(100)
    ]
    assert abs(np.mean(strangers)) < 4 * np.std(strangers) / 10
    centred = left - 5
    assert similarity.debiased_cka(left, centred) == pytest.approx(1)


def archive(path, **arrays):
    with zipfile.ZipFile(path, "w") as file:
        for number in range(6):
            file.writestr(f"images/{number:02}.png", encoded(photo(number), "PNG"))
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            file.writestr(f"{name}.npy", content.getvalue())
    return path


def test_recordings_are_read_from_their_archive(tmp_path):
    responses, rdms = np.zeros((2, 6, 3), np.float32), np.ones((1, 6, 6))
    loaded = load_neural(archive(tmp_path / "v4-1.zip", responses=responses, rdms_it=rdms), 16)
    assert loaded.name == "v4-1"
    assert loaded.images.shape == (6, 16, 16, 3)
    assert np.abs(loaded.images[3] - np.asarray(photo(3).resize((16, 16)), float)).mean() < 20
    np.testing.assert_array_equal(loaded.responses, responses)
    np.testing.assert_array_equal(loaded.rdms["it"], rdms)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "lacks part of images"),
        ({"responses": np.zeros((2, 5, 3))}, r"have shape \(2, 5, 3\); they take \[repeats, 6"),
        ({"rdms_it": np.zeros((6, 6))}, r"have shape \(6, 6\); they take \[subjects, 6 images"),
    ],
)
def test_recordings_that_do_not_fit_are_refused(arrays, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load_neural(archive(tmp_path / "v4.zip", **arrays), 16)
    with pytest.raises(UserError, match="which does not exist; it takes images"):
        load_neural(tmp_path / "none.zip", 16)


def recording(path, images, **files):
    """A folder of a grey for each image, and of neurons that answer with it in the order given."""
    (path / "images").mkdir(parents=True)
    for place, name in enumerate(images, 1):
        Image.new("RGB", (8, 8), (9 * place,) * 3).save(path / "images" / name, "PNG")
    responses = 9.0 * np.arange(1, len(images) + 1)[None, :, None] * np.ones((1, 1, 2))
    np.save(path / "responses.npy", responses)
    for name, content in files.items():
        (path / name.replace("_", ".")).write_text(content)
    return path


NUMBERED = [f"{number}.png" for number in range(1, 13)]
PAIRED = {
    "numbers": (NUMBERED, {}),
    "numbers after a name": ([f"im-{number}.jpg" for number in range(95, 107)], {}),
    "numbers with zeros": ([f"{number:04}.png" for number in range(12)], {}),
    "letters": (list("abcdefgh"), {}),
    "a table": (NUMBERED[::-1], {"stimuli_csv": "Filename\n" + "\n".join(NUMBERED[::-1])}),
    "a table by stems": (["b.png", "a.png"], {"order_csv": "stimulus_id\nb\na\n"}),
    "a table with semicolons": (["b.png", "a.png"], {"order_csv": "x;image\n1;b\n2;a\n"}),
    "a list": (["z.png", "a.png", "k.png"], {"names_json": '["images/z.png", "a.png", "k"]'}),
    "rows": (["z.png", "a.png"], {"names_json": '[{"filename": "z"}, {"filename": "a"}]'}),
    "columns": (["z.png", "a.png"], {"meta_json": '{"area": "V4", "filename": ["z", "a"]}'}),
    "an object of a list": (["z.png", "a.png"], {"meta_json": '{"stimuli": ["z", "a"]}'}),
    "other tables": (NUMBERED, {"meta_json": '{"area": "V4"}', "neurons_csv": "neuron\n1\n"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", PAIRED)
def test_each_image_has_its_own_responses(kind, tmp_path):
    images, tables = PAIRED[kind]
    images = [name if "." in name else f"{name}.png" for name in images]
    loaded = load_neural(recording(tmp_path / "v4", images, **tables), 8)
    np.testing.assert_array_equal(loaded.images.mean((1, 2, 3)), loaded.responses[0, :, 0])


TWO = ["1.png", "2.png"]
DOUBTFUL = {
    "two numbers": (["1-2.png", "1-10.png", "2-1.png"], {}, "(1-10.png, 1-2.png, 2-1.png, ...)"),
    "two names": (["a2.png", "a10.png", "b1.png"], {}, "it takes stimuli.csv with a column"),
    "decimals": (["0.5.png", "0.25.png"], {}, "in no one order"),
    "signs": (["-1.png", "-2.png"], {}, "in no one order"),
    "capitals": (["a.png", "B.png"], {}, "in no one order"),
    "the same number": (["1.png", "01.png", "2.png"], {}, "in no one order"),
    "the same stem": (["1.png", "1.jpg"], {}, "in no one order"),
    "a column of another name": (TWO, {"x_csv": "shown\n2.png\n1.png\n"}, "in no column of"),
    "an unknown image": (TWO, {"x_csv": "image\n2\n3\n"}, "has no image of stimulus '3'"),
    "an image twice": (TWO, {"x_csv": "image\n2\n2\n"}, "names '2' twice"),
    "two tables": (TWO, {"x_csv": "image\n2\n1", "y_csv": "image\n1\n2"}, "name different stimuli"),
    "no JSON": (TWO, {"x_json": "{"}, "x.json cannot be read"),
    "numbers alone": (TWO, {"x_json": "[2, 1]"}, "takes a list of names"),
}


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_an_order_in_doubt_is_refused(kind, tmp_path):
    images, tables, message = DOUBTFUL[kind]
    with pytest.raises(UserError, match=re.escape(message)):
        load_neural(recording(tmp_path / "v4", images, **tables), 8)


def test_silent_neurons_are_left_out_and_counted(capsys):
    random = np.random.default_rng(0)
    responses = random.normal(size=(1, 40, 20)) + 0.5 * random.normal(size=(4, 40, 20))
    images = random.integers(256, size=(40, 4, 4, 3)).astype(np.uint8)
    silent = responses.copy()
    silent[:, :, 7] = 3
    silent[:, 5, 8] = np.nan
    rest = responses[:, :, [n for n in range(20) if n not in (7, 8)]]
    features = random.normal(size=(40, 10))
    for rows in (claim.ceilings, lambda r: claim.compare(features, r[0])):
        found, right = (rows([Neural("v4", images, r, {})]) for r in (silent, rest))
        assert [row["value"] for row in found] == [row["value"] for row in right]
    claim.check(Neural("v4", images, silent, {}))
    assert "v4: 2 of 20 neurons left out" in capsys.readouterr().out
    with pytest.raises(UserError, match="v4 has no neuron whose responses are known and vary"):
        claim.check(Neural("v4", images, silent[:, :, [7, 8]], {}))
    with pytest.raises(UserError, match="v4 has 4 images; similarity takes at least 5"):
        claim.check(Neural("v4", images[:4], silent[:, :4], {}))


def test_a_half_that_does_not_vary_is_no_reliability():
    responses = np.zeros((2, 9, 2))
    responses[0, 4, 0] = 1
    responses[:, :, 1] = np.arange(9)
    np.testing.assert_allclose(similarity.split_half_ceiling(responses), [0, 1])
    assert np.isnan(similarity.split_half_ceiling(responses[:, :, :1] * 0)).all()


def test_images_that_leave_a_tap_silent_are_left_out_and_counted(capsys):
    random = np.random.default_rng(0)
    features, rdm = random.normal(size=(12, 6)), random.uniform(size=(1, 12, 12))
    others = np.arange(12) != 3
    right = similarity.rdm_similarity(features[others], rdm[:, others][:, :, others])
    features[3] = 0
    np.testing.assert_array_equal(similarity.rdm_similarity(features, rdm), right)
    (row,) = claim.compare(features, Neural("it", np.zeros((12, 4, 4, 3)), None, {"a": rdm}))
    claim.say_silent([{"rule": "dfa", "tap": "conv0", **row}])
    assert "it: 1 images leave conv0 of dfa silent" in capsys.readouterr().out
