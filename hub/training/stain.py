"""Fitting of the `StainNormalizer`: to undo random changes of the training images' stain."""

import logging

import torch
from tqdm.auto import tqdm

from hub.training.crops import CropImages
from hub.training.sampling import balanced_weights
from hub.training.views import CellViews, mix_stains, to_light, to_pixel_values
from modeling_wbc.illumination_wbc import BACKGROUND
from modeling_wbc.stain_wbc import StainNormalizer, optical_density

logger = logging.getLogger(__name__)

_SIZE = 64  # pixels of the crops that the normaliser is fitted to
_BATCH_SIZE = 96
_MOST_DENSITY = 2.5  # more is noise of a dark pixel


def fit_stain_normalizer(
    normalizer: StainNormalizer,
    images: CropImages,
    steps: int = 2000,
    device: torch.device | str = "cpu",
    strength: float = 1.0,
) -> float:
    """Fit a normaliser to training images whose stain is mixed at random; labels play no part but in the sampling.

    The loss is the mean squared difference between the densities after the normaliser and those before the mixing,
    each cut off at `_MOST_DENSITY`. AdamW, a learning rate that rises to 0.002 and falls to 0 along a cosine.

    Args:
        normalizer: Changed in place, and frozen afterwards.
        images: The training images; drawn evenly over labs and types.
        steps: Number of batches.
        device: Where to compute.
        strength: Of the mixing, see `hub.training.views.mix_stains`.

    Returns:
        The mean loss of the last tenth of the steps, as a share of that of the unchanged images.
    """
    generator = torch.Generator().manual_seed(images.seed)
    weights = torch.from_numpy(balanced_weights(images.dataset, 0.5))
    view = CellViews(_SIZE, strength=0, camera=False)
    normalizer.to(device).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(normalizer.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    recent: list[tuple[float, float]] = []
    for step in tqdm(range(steps), desc="Fitting the stain normaliser", unit="batch", disable=None):
        rows = torch.multinomial(weights, _BATCH_SIZE, generator=generator)
        crops = torch.stack([images[int(row)]["pixel_values"] for row in rows]).to(device)
        light = view.place(crops, generator).clamp(min=0)
        mixed = mix_stains(light, strength, generator).clamp(max=255 / BACKGROUND)
        density = optical_density(light).clamp(max=_MOST_DENSITY)
        changed = optical_density(
            255 / BACKGROUND * to_light(normalizer(to_pixel_values(mixed * (BACKGROUND / 255))))
        ).clamp(max=_MOST_DENSITY)
        loss = (changed - density).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(normalizer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step >= int(0.9 * steps):
            with torch.no_grad():
                before = (optical_density(mixed).clamp(max=_MOST_DENSITY) - density).square().mean()
            recent.append((loss.item(), before.item()))
    normalizer.eval().requires_grad_(False)
    left = sum(loss for loss, _ in recent) / sum(before for _, before in recent)
    logger.info(f"the stain normaliser leaves {left:.0%} of the squared change of density")
    return left
