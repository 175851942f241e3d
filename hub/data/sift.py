"""Grey images, SIFT features and work on all cores: what registration and overlaps have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import joblib
import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from modeling_wbc.reading_wbc import read_image

# Width and height in pixels that the publisher resized the photographs to before augmenting them.
SIZE = (320, 240)


def grey(content: bytes) -> np.ndarray:
    """Decode an image to grey levels at `SIZE`: uint8 (240, 320)."""
    return np.asarray(read_image(content).convert("L").resize(SIZE, Image.Resampling.BOX))


def sift_features(image: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the strongest SIFT features of an image (Lowe 2004).

    Args:
        image: Grey levels, uint8 (H, W).
        count: How many features to return at most.

    Returns:
        Places (x, y) in pixels, float32 (n, 2), and unit descriptors, float32 (n, 128), strongest first, n <= `count`.
        The descriptors are square roots, whose cosine is to be compared (RootSIFT, Arandjelovic & Zisserman 2012).
    """
    points, descriptors = cv2.SIFT_create(nfeatures=count, contrastThreshold=0.02).detectAndCompute(image, None)
    if not points:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    order = sorted(range(len(points)), key=lambda k: -points[k].response)[:count]
    roots = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
    return np.array([point.pt for point in points], np.float32)[order], roots[order].astype(np.float32)


def map_on_all_cores(work: Callable, items: Sequence, title: str) -> list:
    """Return `[work(item) for item in items]`, computed in threads, with a progress bar.

    OpenCV and NumPy release Python's lock, so threads are enough.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # A core for each item, and no threads within threads.
    try:
        with threadpool_limits(1), ThreadPoolExecutor(joblib.cpu_count()) as pool:
            return list(tqdm(pool.map(work, items), desc=title, total=len(items), unit="file", disable=None))
    finally:
        cv2.setNumThreads(threads)
