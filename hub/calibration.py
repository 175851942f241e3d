"""What a trained classifier still lacks: probabilities that keep their word, and a limit to what it knows."""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cholesky
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf

# Of the images of each data set, the share that the limit leaves known.
KEPT = 0.995
_LARGEST = 20.0


def fit_temperature(logits: np.ndarray, references: Sequence[int]) -> float:
    """The temperature T for which softmax(logits / T) is likeliest (Guo et al. 2017, section 4.2).

    Args:
        logits: float (N, K), of images that the classifier was not trained on.
        references: N true class ids, integers in [0, K).

    Returns:
        T in [1/20, 20]. Where every answer is right, the likelihood only grows as T falls, and T is near 1/20.

    Raises:
        ValueError: The shapes do not fit.
    """
    logits, references = np.asarray(logits, dtype=np.float64), np.asarray(references)
    if logits.ndim != 2 or references.shape != logits.shape[:1] or not len(references):
        raise ValueError(
            f"logits must be (N, K) and references (N,) with N > 0, got {logits.shape} and {references.shape}"
        )
    # The loss is convex in 1 / T.
    margins = logits - logits[np.arange(len(references)), references][:, None]
    found = minimize_scalar(
        lambda sharpness: logsumexp(sharpness * margins, axis=1).mean(),
        bounds=(1 / _LARGEST, _LARGEST),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(1 / found.x)


def fit_novelty(statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and whitening of `modeling_wbc.SmearNovelty`, by the shrunk covariance of Ledoit & Wolf (2004).

    Args:
        statistics: float (N, D), those of `SmearNovelty.statistics` for N > 1 training images.

    Returns:
        m (D,) and W (D, D), float64, with which |W (s - m)|^2 is the squared Mahalanobis distance divided by D.

    Raises:
        ValueError: The shape is another one.
    """
    statistics = np.asarray(statistics, dtype=np.float64)
    if statistics.ndim != 2 or len(statistics) < 2:
        raise ValueError(f"statistics must be (N, D) with N > 1, got {statistics.shape}")
    mean, deviation = statistics.mean(0), statistics.std(0)
    # A channel that never varies must not be divided by.
    deviation = np.maximum(deviation, max(1e-4 * deviation.max(), np.finfo(np.float32).tiny))
    precision = LedoitWolf().fit((statistics - mean) / deviation).precision_
    return mean, cholesky(precision / len(mean)) / deviation


def choose_limit(values: Sequence[float], origins: Sequence[str] | None = None, kept: float = KEPT) -> float:
    """The least value up to which at least `kept` of each data set's images lie.

    Args:
        values: N values, of images that the classifier was not trained on.
        origins: The name of the data set of each. Default: they are one.
        kept: The share, in (0, 1].

    Raises:
        ValueError: Lengths differ, or nothing was given.
    """
    values = np.asarray(values, dtype=np.float64)
    origins = np.zeros(len(values)) if origins is None else np.asarray(origins)
    if values.ndim != 1 or len(origins) != len(values) or not len(values):
        raise ValueError(f"got {values.shape} values and {len(origins)} origins; give N > 0 of each")
    return float(max(np.quantile(values[origins == name], kept, method="inverted_cdf") for name in np.unique(origins)))
