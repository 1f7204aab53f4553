"""How much there is to see in an image: a guard against training that empties images while its score rises.

Training on what OCR reads alone can blank the background; both numbers fall then. Neither says that an image is good.
"""

from __future__ import annotations

import numpy as np

EDGE = 24  # levels of 255 between neighbours
LEVELS = 8  # of each colour channel
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def edge_density(pixels: np.ndarray) -> float:
    """Measure the share of pixels that are edges: their luma differs by more than EDGE from the next right or below.

    `pixels` are H W 3, 0 to 255.
    """
    luma = pixels[..., :3].astype(np.float64) @ np.array(LUMA)
    right, below = np.abs(np.diff(luma, axis=1))[:-1], np.abs(np.diff(luma, axis=0))[:, :-1]
    return float((np.maximum(right, below) > EDGE).mean())


def colour_entropy(pixels: np.ndarray) -> float:
    """Measure the Shannon entropy of the colours, in LEVELS per channel: 0 bits for one colour, at most 9.

    `pixels` are H W 3, 0 to 255.
    """
    coarse = pixels[..., :3].reshape(-1, 3).astype(np.int64) * LEVELS // 256
    counts = np.bincount(coarse @ np.array([LEVELS * LEVELS, LEVELS, 1]))
    shares = counts[counts > 0] / len(coarse)
    return float(-(shares * np.log2(shares)).sum() + 0.0)
