"""Temperature scaling and OOD threshold."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.linalg import cholesky
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from transformers import PreTrainedModel

from hub.training.focus import fit_focus_threshold, measure_blurred
from hub.training.images import CellImages
from hub.training.outliers import CropsBesideCells, DeadLeaves, OtherLabs, Restained
from hub.training.sampling import deciding_labs
from hub.training.trainer import WBCTrainer
from modeling_wbc import SmearNovelty

logger = logging.getLogger(__name__)

# The share of each lab's images that the OOD threshold accepts (in-distribution acceptance).
ACCEPTANCE = 0.995
# The OOD score is fitted to as many training images at most, and to as many of them under other stains: fewer than a
# quarter of all, and cells of other labs are refused.
MAX_FITTED_IMAGES = 2000
MAX_RESTAINED = 800
# Drawings of no smear to which the direction is fitted, at most and not more than images.
MAX_DRAWINGS = 1000
# Fewer crops beside cells have no direction.
_MIN_BESIDE = 20
_DIRECTION_WEIGHT = 70  # of the mean loss of the logistic regression, beside its penalty |v|^2 / 2
_MAX_TEMPERATURE = 20.0


def fit_temperature(logits: np.ndarray, references: Sequence[int], origins: Sequence[str] | None = None) -> float:
    """Fit the temperature T that maximises the likelihood of softmax(logits / T) (Guo et al. 2017, section 4.2).

    Args:
        logits: float (N, K), of images that the classifier was not trained on.
        references: N true class ids, integers in [0, K).
        origins: The lab of each image; labs weigh equally, however many images they have. Default: all are of one.

    Returns:
        T in [1/20, 20]. If every prediction is right, the likelihood grows as T falls, and T is near 1/20.

    Raises:
        ValueError: The shapes do not match.
    """
    logits, references = np.asarray(logits, dtype=np.float64), np.asarray(references)
    origins = np.zeros(len(references)) if origins is None else np.asarray(origins)
    if logits.ndim != 2 or not references.shape == origins.shape == logits.shape[:1] or not len(references):
        raise ValueError(
            f"logits must be (N, K), references and origins (N,) with N > 0, got {logits.shape}, {references.shape} "
            f"and {origins.shape}"
        )
    _, labs, counts = np.unique(origins, return_inverse=True, return_counts=True)
    weights = 1 / (len(counts) * counts[labs])
    # The loss is convex in 1 / T.
    margins = logits - logits[np.arange(len(references)), references][:, None]
    found = minimize_scalar(
        lambda sharpness: weights @ logsumexp(sharpness * margins, axis=1),
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


def fit_direction(cells: np.ndarray, beside: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit direction and offset of `modeling_wbc.SmearNovelty` by logistic regression, cells and others alike weighted.

    Args:
        cells: float (N, D), the whitened statistics of crops around cells.
        beside: float (M, D), those of crops that show none.

    Returns:
        v (D,) and b, so that v z + b are the log-odds that z shows no cell, at equal numbers of both.
    """
    # To a variance of about 1, for which the penalty is meant.
    scale = np.sqrt(cells.shape[1])
    samples = scale * np.concatenate((cells, beside))
    model = LogisticRegression(C=_DIRECTION_WEIGHT / len(samples), class_weight="balanced", max_iter=1000)
    model.fit(samples, np.repeat([0, 1], [len(cells), len(beside)]))
    return scale * model.coef_[0], float(model.intercept_[0])


def fit_threshold(values: Sequence[float], origins: Sequence[str] | None = None, kept: float = ACCEPTANCE) -> float:
    """Fit the OOD threshold: the least value that accepts at least the share `kept` of each large lab's images.

    Args:
        values: N OOD scores of images that the classifier was not trained on.
        origins: The lab of each image, of which the large ones decide, see `deciding_labs`. Default: all are of one.
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
    labs = deciding_labs(origins)
    return float(max(np.quantile(values[origins == lab], kept, method="inverted_cdf") for lab in labs))


def calibrate(trainer: WBCTrainer, images: CellImages, divide_logits: Callable[[PreTrainedModel, float], None]) -> str:
    """Fit the OOD score to training images, and temperature and thresholds to the validation split.

    The temperature is fitted to the cells of the validation images as other labs may show them, or to whole fields
    under other stains: on those as they are, the probabilities would be too high for a lab that was not trained on.
    The OOD threshold accepts the share `ACCEPTANCE` of the images of each large lab, and the threshold above which an
    image is no smear the same share of them under other stains. A model without an OOD score (a baseline) gets the
    temperature alone.

    Args:
        trainer: Holds the model, which is changed, and the validation split.
        images: The training split, unchanged.
        divide_logits: Divides the logits of a model without an OOD score by the temperature.

    Returns:
        The fitted values in words.
    """
    model, validation = trainer.model, trainer.eval_dataset
    has_ood_score = hasattr(model, "novelty")
    if has_ood_score:
        model.config.temperature = 1.0
        fit_ood_score(trainer, images)
    finds_cells = validation.image_processor.do_find_cell
    elsewhere = OtherLabs(validation) if finds_cells else Restained(validation)
    shown = trainer.predict(elsewhere, metric_key_prefix="calibration")
    temperature = fit_temperature(logits_of(shown.predictions), shown.label_ids, validation.origins)
    fitted = f"temperature {temperature:.3f}"
    if has_ood_score:
        config = model.config
        scores = trainer.predict(validation, metric_key_prefix="calibration").predictions
        restained = trainer.predict(Restained(validation), metric_key_prefix="calibration") if finds_cells else shown
        config.temperature = temperature
        config.max_novelty = fit_threshold(scores[2], validation.origins)
        of_no_smear = fit_threshold(restained.predictions[2], validation.origins)
        config.max_smear_novelty = max(config.max_novelty, of_no_smear)
        config.min_focus = fit_focus(trainer, validation, scores[-1])
        fitted += (
            f", OOD threshold {config.max_novelty:.2f}, no smear above {config.max_smear_novelty:.2f}, "
            f"focus threshold {config.min_focus:.2f}"
        )
    else:
        divide_logits(model, temperature)
    logger.info(f"fitted to {len(validation)} images of validation: {fitted}")
    return f"{fitted}, fitted to the validation split"


def fit_ood_score(trainer: WBCTrainer, images: CellImages) -> None:
    """Give the model a `SmearNovelty` of all stages but the last, fitted to a sample of the images.

    The Gaussian is fitted to at most `MAX_FITTED_IMAGES` of them as they are and `MAX_RESTAINED` under other stains;
    the direction to these and to the former as other labs may show them on the one hand, and to crops beside their
    cells, at random places and where the detector finds something, and at most `MAX_DRAWINGS` drawings on the other.
    Its log-odds count from where they begin to be higher than those of the cells of each large lab's validation
    images. A model of whole fields has no direction, as they show what lies beside their cells.
    """
    model, validation = trainer.model.eval(), trainer.eval_dataset
    model.config.novelty_stages = [*range(1, max(2, len(model.config.depths)))]
    model.novelty = SmearNovelty.of(model.config).to(model.device)
    rows, some = (sample_evenly(images.origins, count, images.seed) for count in (MAX_FITTED_IMAGES, MAX_RESTAINED))
    cells = np.concatenate([_statistics(trainer, images, rows), _statistics(trainer, Restained(images), some)])
    mean, whitening = fit_novelty(cells)
    values: dict[str, np.ndarray | float] = {"mean": mean, "whitening": whitening}
    if images.image_processor.do_find_cell:
        crops = [CropsBesideCells(images, detected) for detected in (False, True)]
        beside = np.concatenate([_statistics(trainer, each, rows) for each in crops])
        if len(beside) >= _MIN_BESIDE:
            labs = validation.origins
            held_out = sample_evenly(labs, MAX_FITTED_IMAGES, images.seed)
            drawings = DeadLeaves(images.image_processor, min(len(rows), MAX_DRAWINGS), images.seed)
            drawn = _statistics(trainer, drawings, range(len(drawings)))
            # What is no cell has other surroundings, sharpness and colours, too: none of these may tell it from the
            # cells of another lab.
            cells = np.concatenate((cells, _statistics(trainer, OtherLabs(images), rows)))
            samples = (cells, np.concatenate((beside, drawn)), _statistics(trainer, validation, held_out))
            cells, beside, others = ((sample - mean) @ whitening.T for sample in samples)
            direction, offset = fit_direction(cells, beside)
            start = fit_threshold(others @ direction + offset, [labs[row] for row in held_out])
            values |= {"direction": direction, "offset": offset - start}
        else:
            logger.warning(f"{len(beside)} crops lie beside cells of training images: the OOD score does without")
    for name, value in values.items():
        model.novelty.get_buffer(name).copy_(torch.as_tensor(value))


def _statistics(trainer: WBCTrainer, images: torch.utils.data.Dataset, rows: Sequence[int]) -> np.ndarray:
    """`SmearNovelty.statistics` of rows of `images`, float64 (N, D), without those that say they are not `found`."""
    model, statistics = trainer.model, []
    # Not the loader for evaluation, of which persistent workers keep the first one, whatever data set is given.
    for batch in trainer.get_test_dataloader(torch.utils.data.Subset(images, rows)):
        pixel_values = batch["pixel_values"].contiguous(memory_format=trainer.memory_format)
        # In float32, even of a run in bfloat16, whose rounding would be magnified where training images hardly vary.
        with torch.no_grad():
            maps = model.resnet(pixel_values, output_hidden_states=True).hidden_states
        found = batch.get("found", torch.ones(len(pixel_values), dtype=torch.bool, device=pixel_values.device))
        of_stages = model.novelty.statistics(*(maps[stage] for stage in model.config.novelty_stages))
        gathered, found = trainer.accelerator.gather_for_metrics((of_stages, found))
        statistics.append(gathered[found].numpy(force=True).astype(np.float64))
    return np.concatenate(statistics)


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
