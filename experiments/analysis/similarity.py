"""Similarity of a network and a brain area: predictivity, dissimilarities, kernel alignment."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

FOLDS = 5
COMPONENTS = 25
"""Number of components of partial least squares, as in Brain-Score."""


def ridge_predictivity(features: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Correlates each neuron's held-out responses with ridge predictions from features.

    Args:
        features: [images, n].
        responses: [images, neurons].

    Returns:
        Pearson r over all images, [neurons]. Each image is predicted from the four folds that do
        not contain it, within which the penalty of each neuron is chosen.
    """
    penalties = features.shape[1] * 10.0 ** np.arange(-3, 3)
    predicted = np.empty_like(responses, dtype=float)
    for train, test, scaled in _folds(features):
        model = RidgeCV(penalties, alpha_per_target=True).fit(scaled[train], responses[train])
        predicted[test] = model.predict(scaled[test]).reshape(len(test), -1)
    return column_correlations(predicted, responses)


def pls_predictivity(features: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Computes the same correlation for partial least squares with 25 components.

    If there are more features than images, the fit uses coordinates in the span of the training
    images, where the result is the same and products are a hundred times smaller.
    """
    predicted = np.empty_like(responses, dtype=float)
    for train, test, scaled in _folds(features):
        components = min(COMPONENTS, features.shape[1], len(train) - 1)
        scaled = scaled if features.shape[1] <= len(train) else _coordinates(scaled, train)
        model = PLSRegression(components, scale=False).fit(scaled[train], responses[train])
        predicted[test] = model.predict(scaled[test]).reshape(len(test), -1)
    return column_correlations(predicted, responses)


def _coordinates(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Returns coordinates of all images in an orthonormal basis of the training images' span."""
    products = features @ features[train].T
    values, vectors = np.linalg.eigh(products[train])
    kept = values > values[-1] * len(values) * np.finfo(products.dtype).eps
    return products @ (vectors[:, kept] / np.sqrt(values[kept]))


def _folds(features: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields training images, held-out images, and features standardised by the former."""
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(features):
        scaled = StandardScaler().fit(features[train]).transform(features)
        yield train, test, np.asarray(scaled)


def column_correlations(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the Pearson correlation of each column; 0 if a column does not vary."""
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    norms = np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=0)
    return (left * right).sum(axis=0) / np.where(norms > 0, norms, np.inf)


def answering(responses: np.ndarray) -> np.ndarray:
    """Returns which neurons have known responses to all images that are not all equal.

    Args:
        responses: [repeats, images, neurons], with NaN for missing repeats.

    Returns:
        Booleans, [neurons].
    """
    means = mean_over_repeats(responses)
    return np.isfinite(means).all(axis=0) & (np.ptp(means, axis=0) > 0)


def mean_over_repeats(responses: np.ndarray) -> np.ndarray:
    """Returns mean responses [images, neurons]; NaN if an image has no repeat."""
    known = ~np.isnan(responses)
    counts = known.sum(axis=0)
    total = np.where(known, responses, 0).sum(axis=0, dtype=float)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


def split_half_ceiling(responses: np.ndarray, *, splits: int = 20, seed: int = 0) -> np.ndarray:
    """Estimates the correlation of a perfect model with each neuron's mean over repeats.

    Args:
        responses: [repeats, images, neurons], with NaN for missing repeats.
        splits: number of random splits in halves that are averaged.
        seed: seed of the splits.

    Returns:
        The square root of the reliability of the mean, [neurons], from the correlation of two
        halves of the repeats and the Spearman-Brown formula. It is 0 if a half does not vary, and
        NaN for a neuron that does not vary or has fewer than three images with two repeats.
    """
    random = np.random.default_rng(seed)
    repeats = len(responses)
    found = []
    for _ in range(splits):
        # Each image's repeats are split separately, because images lack different repeats.
        order = random.permuted(np.broadcast_to(np.arange(repeats)[:, None], responses.shape[:2]),
                                axis=0)  # fmt: skip
        shuffled = np.take_along_axis(responses, order[:, :, None], axis=0)
        present = ~np.isnan(shuffled)
        rank = np.cumsum(present, axis=0) - 1
        halves = []
        for half in (0, 1):
            chosen = present & (rank % 2 == half)
            count = chosen.sum(axis=0)
            total = np.where(chosen, shuffled, 0).sum(axis=0)
            halves.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
        known = ~np.isnan(halves[0]) & ~np.isnan(halves[1])
        found.append(
            [
                column_correlations(halves[0][known[:, n], n], halves[1][known[:, n], n])
                if known[:, n].sum() >= 3
                else np.nan
                for n in range(responses.shape[2])
            ]
        )
    means = mean_over_repeats(responses)
    missing = np.isnan(means)
    lowest, highest = np.where(missing, np.inf, means), np.where(missing, -np.inf, means)
    varies = highest.max(axis=0) > lowest.min(axis=0)
    half = np.where(varies, np.mean(found, axis=0), np.nan)
    return np.sqrt(np.clip(2 * half / (1 + half), 0, 1))


def dissimilarity(features: np.ndarray) -> np.ndarray:
    """Returns 1 minus the correlation of the features of every two images, [images, images]."""
    return 1 - np.corrcoef(features)


def silent_images(features: np.ndarray) -> int:
    """Returns how many images have features [images, n] that are all equal."""
    return int((np.ptp(features, axis=1) == 0).sum())


def upper(rdm: np.ndarray) -> np.ndarray:
    """Returns the entries above the diagonal as a vector."""
    return rdm[np.triu_indices(len(rdm), 1)]


def rdm_similarity(features: np.ndarray, rdms: np.ndarray) -> np.ndarray:
    """Returns the Spearman correlation of dissimilarities with those of subjects, [subjects].

    Images whose features are all equal are left out; it is NaN if fewer than three are left.
    """
    kept = np.ptp(features, axis=1) > 0
    if kept.sum() < 3:
        return np.full(len(rdms), np.nan)
    ours = upper(dissimilarity(features[kept]))
    return np.array([spearman(ours, upper(rdm[np.ix_(kept, kept)])) for rdm in rdms])


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Returns the correlation of ranks."""
    found: Any = stats.spearmanr(left, right)
    return float(found.statistic)


def rdm_ceiling(rdms: np.ndarray) -> tuple[float, float]:
    """Returns bounds of the correlation that a perfect model would reach (Nili et al. 2014).

    Returns:
        The mean correlation of a subject with the mean of the others, and with the mean of all; NaN
        for a single subject.
    """
    if len(rdms) < 2:
        return float("nan"), float("nan")
    ranks = np.array([stats.rankdata(upper(rdm)) for rdm in rdms])
    whole = ranks.mean(axis=0)
    others = [(len(rdms) * whole - own) / (len(rdms) - 1) for own in ranks]
    lower = [spearman(own, rest) for own, rest in zip(ranks, others, strict=True)]
    higher = [spearman(own, whole) for own in ranks]
    return float(np.mean(lower)), float(np.mean(higher))


def debiased_cka(left: np.ndarray, right: np.ndarray) -> float:
    """Computes linear centred kernel alignment without the bias of few images (Song et al. 2012).

    Args:
        left: [images, n].
        right: [images, m].
    """
    return _hsic(left, right) / np.sqrt(_hsic(left, left) * _hsic(right, right))


def _hsic(left: np.ndarray, right: np.ndarray) -> float:
    count = len(left)
    kernels = []
    for features in (left, right):
        kernel = features @ features.T
        np.fill_diagonal(kernel, 0)
        kernels.append(kernel)
    first, second = kernels
    ones = np.ones(count)
    total = (ones @ first @ ones) * (ones @ second @ ones) / ((count - 1) * (count - 2))
    cross = 2 * (ones @ first @ second @ ones) / (count - 2)
    return float((np.sum(first * second) + total - cross) / (count * (count - 3)))
