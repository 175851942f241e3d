"""Temperature scaling and OOD threshold."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import cholesky
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf

from hub.study.baselines import divide_logits
from hub.training.images import CellImages
from hub.training.trainer import WBCTrainer
from modeling_wbc import WBCForImageClassification

logger = logging.getLogger(__name__)

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


def fit_threshold(values: Sequence[float], origins: Sequence[str] | None = None, kept: float = KEPT) -> float:
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


# So many training images tell what a smear looks like.
SMEARS_FITTED = 2000


def calibrate(trainer: WBCTrainer, images: CellImages) -> str:
    """Fits temperature and limit to the validation split, and what tells smears from other images to training images.

    `images` are those of the training split, stained as any lab could, and otherwise unchanged. A rival has the
    temperature alone. Returns what was fitted, in words.
    """
    model, validation = trainer.model, trainer.eval_dataset
    is_rival = not isinstance(model, WBCForImageClassification)
    if not is_rival:
        model.config.temperature = 1.0
        fit_smears(trainer, images)
    output = trainer.predict(validation, metric_key_prefix="calibration")
    temperature = fit_temperature(logits_of(output.predictions), output.label_ids)
    fitted = f"temperature {temperature:.3f}"
    if is_rival:
        divide_logits(model, temperature)
    else:
        model.config.temperature = temperature
        model.config.max_novelty = fit_threshold(output.predictions[2], validation.origins)
        fitted += f", known up to a novelty of {model.config.max_novelty:.2f}"
    logger.info(f"fitted to {len(validation)} images of validation: {fitted}")
    return f"{fitted}, by validation"


def fit_smears(trainer: WBCTrainer, images: CellImages) -> None:
    """Fits [`SmearNovelty`] to the images, or to `SMEARS_FITTED` of them."""
    model = trainer.model.eval()
    statistics = []
    for batch in trainer.get_eval_dataloader(
        torch.utils.data.Subset(images, evenly_drawn(images.origins, SMEARS_FITTED, images.seed))
    ):
        pixel_values = batch["pixel_values"].contiguous(memory_format=trainer.memory_format)
        with torch.no_grad(), trainer.compute_loss_context_manager():
            stage = model.resnet.encoder.stages[0](model.resnet.embedder(pixel_values))
        statistics.append(trainer.accelerator.gather_for_metrics(model.novelty.statistics(stage)))
    mean, whitening = fit_novelty(torch.cat(statistics).numpy(force=True))
    model.novelty.mean.copy_(torch.from_numpy(mean))
    model.novelty.whitening.copy_(torch.from_numpy(whitening))


def logits_of(predictions) -> np.ndarray:
    """The logits among what the Trainer predicts: of a rival that is all there is."""
    return predictions[0] if isinstance(predictions, tuple) else predictions


def evenly_drawn(origins: list[str], count: int, seed: int) -> list[int]:
    """Rows, at most about `count`, drawn without replacement and in equal numbers from each of the `origins`."""
    names = list(dict.fromkeys(origins))
    generator, origins = np.random.default_rng(seed), np.array(origins)
    drawn = [generator.permutation(np.flatnonzero(origins == name))[: -(-count // len(names))] for name in names]
    return sorted(np.concatenate(drawn).tolist())
