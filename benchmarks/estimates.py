"""Bias, variance and cosine of repeated estimates of one gradient, with intervals."""

import numpy as np

from benchmarks.common import Row, bootstrap


def bias_and_variance(drawn: np.ndarray, exact: np.ndarray) -> Row:
    """Returns bias and variance over the exact squared norm, cosine and signal-to-noise ratio.

    All are functions of inner products, so that the bootstrap resamples a Gram matrix.
    """
    size = exact @ exact
    gram, along = drawn @ drawn.T / size, drawn @ exact / size
    count = len(drawn)

    def moments(index: np.ndarray) -> tuple[float, float]:
        weights = np.bincount(index, minlength=count) / count
        inner = weights @ gram @ weights
        square = gram[index, index].mean()
        variance = (square - inner) * count / (count - 1)
        return inner - 2 * along[index].mean() + 1 - variance / count, variance

    everything = np.arange(count)
    bias, variance = moments(everything)
    cosines = along / np.sqrt(np.diag(gram))
    row: Row = {"bias": bias, "variance": variance, "cosine": cosines.mean()}
    for place, name in enumerate(("bias", "variance")):
        low, high = bootstrap(
            everything, lambda index, place=place: np.asarray(moments(index)[place])
        )
        row |= {f"{name}_low": low, f"{name}_high": high}
    row["cosine_low"], row["cosine_high"] = bootstrap(cosines, np.mean)
    mean_square = gram.mean() - variance / count
    row["signal_to_noise"] = mean_square / max(variance, 1e-30)
    return row
