"""Data sets and the order of their examples."""

from itertools import islice

import numpy as np
import pytest

from experiments import data
from experiments.configs import load_config
from experiments.data import embedded, load_in_memory
from experiments.data.characters import ALPHABET, load_characters
from experiments.data.embedded import load_embedded
from experiments.errors import UserError
from tests.cases import run_on


@pytest.mark.parametrize(
    ("name", "shape", "examples"),
    [("digits", (8, 8, 1), 1797), ("mnist5k", (28, 28, 1), 5000), ("photos", (32, 32, 3), 12000)],
)
def test_sets_are_whole_and_standardised(name, shape, examples):
    loaded = load_embedded(name)
    assert loaded.train_inputs.shape[1:] == loaded.test_inputs.shape[1:] == shape
    assert len(loaded.train_inputs) + len(loaded.test_inputs) == examples
    assert loaded.train_inputs.dtype == np.float32
    assert loaded.classes == 10
    assert set(loaded.train_targets) == set(loaded.test_targets) == set(range(10))
    np.testing.assert_allclose(loaded.train_inputs.mean(), 0, atol=1e-3)
    np.testing.assert_allclose(loaded.train_inputs.std(), 1, atol=1e-3)


def test_some_training_images_are_always_the_same_and_of_all_classes():
    config = load_config("digits")
    whole, some, again = (
        load_in_memory(config.replace(train_images=count)) for count in (None, 300, 300)
    )
    assert some.train_size == 300
    assert set(some.train_targets) == set(range(10))
    np.testing.assert_array_equal(some.train_inputs, again.train_inputs)
    np.testing.assert_array_equal(some.test_inputs, whole.test_inputs)
    with pytest.raises(UserError, match="train_images is 5000; there are 1437"):
        load_in_memory(config.replace(train_images=5000))
    with pytest.raises(UserError, match="train_images is 5; characters takes none"):
        load_config("characters").replace(train_images=5)


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_validation_never_touches_the_test_set(name):
    chosen, final = load_embedded(name, validation=True), load_embedded(name)
    seen = {image.tobytes() for image in np.round(final.test_inputs, 3)}
    if name == "digits":
        assert len(chosen.train_inputs) + len(chosen.test_inputs) == len(final.train_inputs)
    for part in (chosen.train_inputs, chosen.test_inputs):
        assert not seen & {image.tobytes() for image in np.round(part, 3)}


def test_train_and_test_patches_share_no_pixel():
    """Patches of a picture of block numbers name only blocks of their own part."""
    height, width = 400, 640
    rows, columns = np.mgrid[:height, :width]
    blocks = 4 * (rows // (height // 4)) + columns // (width // 4)
    picture = np.repeat((blocks * 16).astype(np.uint8)[..., None], 3, axis=2)
    random = np.random.default_rng(0)
    for _ in range(200):
        patch = embedded._patch(picture, np.array([3, 9]), random)
        assert len(np.unique(patch)) == 1
        assert round(float(patch[0, 0, 0]) * 255 / 16) in (3, 9)


def test_hard_variant_hides_colour_and_contrast():
    plain, hard = (
        load_embedded("photos"),
        load_embedded("photos", variant="hard"),
    )
    for loaded, low, high in ((plain, 0.3, 1), (hard, 0, 0.2)):
        means = loaded.train_inputs.mean((1, 2, 3))
        within = [means[loaded.train_targets == c].mean() for c in range(10)]
        assert low <= np.std(within) / means.std() <= high


def test_sequences_of_characters_share_no_text():
    """Nor paragraphs; what follows each character is its target."""
    final, chosen = load_characters(32, False), load_characters(32, True)
    inputs, targets = final.train_examples(np.arange(50))
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
    read = lambda part: "".join(ALPHABET[token] for token in part.ravel())  # noqa: E731
    first, last = read(final.train), read(final.test)
    assert not {*first.split("\n")[:-1]} & {*last.split("\n")[1:]}
    held_out = read(chosen.test)
    assert held_out[:-100] in first
    assert held_out[:100] not in read(chosen.train)
    assert 0.05 < len(last) / len(first) < 0.2
    assert 0.1 < final.chance < 0.2


def test_order_is_known_from_the_step_alone():
    straight = list(islice(data.batches(50, 8, seed=3), 20))
    for start in (1, 5, 6, 7, 13):
        resumed = list(islice(data.batches(50, 8, seed=3, first_step=start), 20 - start))
        np.testing.assert_array_equal(np.stack(resumed), np.stack(straight[start:]))
    epoch = np.concatenate(straight[:6])
    assert len(set(epoch.tolist())) == 48
    assert straight[0].tolist() != straight[6].tolist()
    assert straight[0].tolist() != next(data.batches(50, 8, seed=4)).tolist()


def test_processes_read_their_rows_of_the_same_batches():
    digits = data.load(run_on("digits"))
    whole = digits.train_batches(8, 3, steps=range(5, 7), rows=np.arange(8))
    halves = [
        digits.train_batches(8, 3, steps=range(5, 7), rows=np.arange(4) + 4 * process)
        for process in (0, 1)
    ]
    for (inputs, targets), *parts in zip(whole, *halves, strict=True):
        np.testing.assert_array_equal(np.concatenate([p[0] for p in parts]), inputs)
        np.testing.assert_array_equal(np.concatenate([p[1] for p in parts]), targets)


def test_bad_requests_are_refused():
    with pytest.raises(UserError, match="data is 'cifar'; in memory there are digits"):
        data.load(run_on("cifar"))
    with pytest.raises(UserError, match="variant is 'hard' with data 'digits'"):
        data.load(run_on("digits", variant="hard"))
    with pytest.raises(UserError, match="variant is 'hard' with data 'characters'"):
        data.load(run_on("characters", variant="hard"))
    with pytest.raises(UserError, match="data_path is '/x' with data 'digits'"):
        data.load(run_on("digits", data_path="/x"))
    with pytest.raises(UserError, match="data_path is '' with data 'folder'"):
        data.load(run_on("folder"))
    with pytest.raises(UserError, match="batch is 99; the training set takes at most 50"):
        next(data.batches(50, 99, seed=0))
