"""How much there is to see in an image: a guard against training that empties images while its score rises.

Training on what OCR reads alone can blank the background; both numbers fall then. Neither says that an image is good.
"""

from __future__ import annotations

import numpy as np

EDGE = 24  # levels of 255 between neighbours
LEVELS = 8  # of each colour channel
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def edge_density(pixels: np.ndarray) -> float:
    """Share of pixels (H W 3, 0 to 255) whose luma differs by more than EDGE from that of the next right or below."""
    luma = pixels[..., :3].astype(np.float64) @ np.array(LUMA)
    right, below = np.abs(np.diff(luma, axis=1))[:-1], np.abs(np.diff(luma, axis=0))[:, :-1]
    return float((np.maximum(right, below) > EDGE).mean())


def colour_entropy(pixels: np.ndarray) -> float:
    """Shannon entropy in bits of the colours (H W 3, 0 to 255) in LEVELS a channel: 0 for one colour, at most 9."""
    coarse = pixels[..., :3].reshape(-1, 3).astype(np.int64) * LEVELS // 256
    counts = np.bincount(coarse @ np.array([LEVELS * LEVELS, LEVELS, 1]))
    shares = counts[counts > 0] / len(coarse)
    return float(-(shares * np.log2(shares)).sum() + 0.0)
