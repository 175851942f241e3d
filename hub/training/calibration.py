"""Temperature scaling and OOD threshold."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.linalg import cholesky
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf
from transformers import PreTrainedModel

from hub.training.focus import fit_focus_threshold, measure_blurred
from hub.training.images import CellImages
from hub.training.trainer import WBCTrainer

logger = logging.getLogger(__name__)

# The share of each data set's images that the OOD threshold accepts (in-distribution acceptance).
ACCEPTANCE = 0.995
# The OOD score is fitted to as many training images at most.
MAX_FITTED_IMAGES = 2000
_MAX_TEMPERATURE = 20.0


def fit_temperature(logits: np.ndarray, references: Sequence[int]) -> float:
    """Fit the temperature T that maximises the likelihood of softmax(logits / T) (Guo et al. 2017, section 4.2).

    Args:
        logits: float (N, K), of images that the classifier was not trained on.
        references: N true class ids, integers in [0, K).

    Returns:
        T in [1/20, 20]. If every prediction is right, the likelihood grows as T falls, and T is near 1/20.

    Raises:
        ValueError: The shapes do not match.
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
        bounds=(1 / _MAX_TEMPERATURE, _MAX_TEMPERATURE),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(1 / found.x)


def fit_novelty(statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit mean and whitening of `modeling_wbc.SmearNovelty` by the shrunk covariance of Ledoit & Wolf (2004).

    Args:
        statistics: float (N, D), `SmearNovelty.statistics` of N > 1 training images.

    Returns:
        m (D,) and W (D, D), float64, so that |W (s - m)|^2 is the squared Mahalanobis distance divided by D.

    Raises:
        ValueError: The shape is another one.
    """
    statistics = np.asarray(statistics, dtype=np.float64)
    if statistics.ndim != 2 or len(statistics) < 2:
        raise ValueError(f"statistics must be (N, D) with N > 1, got {statistics.shape}")
    mean, deviation = statistics.mean(0), statistics.std(0)
    # A channel that never varies has no deviation to divide by.
    deviation = np.maximum(deviation, max(1e-4 * deviation.max(), np.finfo(np.float32).tiny))
    precision = LedoitWolf().fit((statistics - mean) / deviation).precision_
    return mean, cholesky(precision / len(mean)) / deviation


def fit_threshold(values: Sequence[float], origins: Sequence[str] | None = None, kept: float = ACCEPTANCE) -> float:
    """Fit the OOD threshold: the least value that accepts at least the share `kept` of each data set's images.

    Args:
        values: N OOD scores of images that the classifier was not trained on.
        origins: The name of the data set of each image. Default: all are of one.
        kept: The share to accept, in (0, 1].

    Returns:
        The threshold, one of `values`; values up to it are accepted.

    Raises:
        ValueError: Lengths differ, or there are no values.
    """
    values = np.asarray(values, dtype=np.float64)
    origins = np.zeros(len(values)) if origins is None else np.asarray(origins)
    if values.ndim != 1 or len(origins) != len(values) or not len(values):
        raise ValueError(f"got {values.shape} values and {len(origins)} origins; give N > 0 of each")
    return float(max(np.quantile(values[origins == name], kept, method="inverted_cdf") for name in np.unique(origins)))


def calibrate(trainer: WBCTrainer, images: CellImages, divide_logits: Callable[[PreTrainedModel, float], None]) -> str:
    """Fit the OOD score to training images, and temperature and OOD threshold to the validation split.

    A model without an OOD score (a baseline) gets the temperature alone.

    Args:
        trainer: Holds the model, which is changed, and the validation split.
        images: The training split, stain-augmented and otherwise unchanged.
        divide_logits: Divides the logits of a model without an OOD score by the temperature.

    Returns:
        The fitted values in words.
    """
    model, validation = trainer.model, trainer.eval_dataset
    has_ood_score = hasattr(model, "novelty")
    if has_ood_score:
        model.config.temperature = 1.0
        fit_ood_score(trainer, images)
    output = trainer.predict(validation, metric_key_prefix="calibration")
    temperature = fit_temperature(logits_of(output.predictions), output.label_ids)
    fitted = f"temperature {temperature:.3f}"
    if has_ood_score:
        model.config.temperature = temperature
        model.config.max_novelty = fit_threshold(output.predictions[2], validation.origins)
        model.config.min_focus = fit_focus(trainer, validation, output.predictions[3])
        fitted += f", OOD threshold {model.config.max_novelty:.2f}, focus threshold {model.config.min_focus:.2f}"
    else:
        divide_logits(model, temperature)
    logger.info(f"fitted to {len(validation)} images of validation: {fitted}")
    return f"{fitted}, fitted to the validation split"


def fit_ood_score(trainer: WBCTrainer, images: CellImages) -> None:
    """Fit the model's `SmearNovelty` to the images, or to a sample of `MAX_FITTED_IMAGES` of them."""
    model = trainer.model.eval()
    sample = torch.utils.data.Subset(images, sample_evenly(images.origins, MAX_FITTED_IMAGES, images.seed))
    statistics = []
    # Not the loader for evaluation, of which persistent workers keep the first one, whatever data set is given.
    for batch in trainer.get_test_dataloader(sample):
        pixel_values = batch["pixel_values"].contiguous(memory_format=trainer.memory_format)
        with torch.no_grad(), trainer.compute_loss_context_manager():
            stage = model.resnet.encoder.stages[0](model.resnet.embedder(pixel_values))
        statistics.append(trainer.accelerator.gather_for_metrics(model.novelty.statistics(stage)))
    mean, whitening = fit_novelty(torch.cat(statistics).numpy(force=True))
    model.novelty.mean.copy_(torch.from_numpy(mean))
    model.novelty.whitening.copy_(torch.from_numpy(whitening))


def fit_focus(trainer: WBCTrainer, validation: CellImages, sharp: np.ndarray) -> float:
    """Fit the focus threshold to the validation split, blurred and not.

    Args:
        trainer: Loads the images.
        validation: The split, of N images.
        sharp: Their focus, float (N,).
    """
    blurred = []
    for batch in trainer.get_test_dataloader(validation):
        focus = measure_blurred(batch["pixel_values"])
        blurred.append(trainer.accelerator.gather_for_metrics(focus).numpy(force=True))
    return fit_focus_threshold(sharp, np.concatenate(blurred), validation.origins)


def logits_of(predictions: np.ndarray | tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the logits (N, K) among the Trainer's predictions: a baseline predicts nothing else."""
    return predictions[0] if isinstance(predictions, tuple) else predictions


def sample_evenly(origins: Sequence[str], count: int, seed: int) -> list[int]:
    """Return at most about `count` rows, drawn without replacement and in equal numbers from each of the `origins`."""
    names = list(dict.fromkeys(origins))
    generator, origins = np.random.default_rng(seed), np.array(origins)
    drawn = [generator.permutation(np.flatnonzero(origins == name))[: -(-count // len(names))] for name in names]
    return sorted(np.concatenate(drawn).tolist())
