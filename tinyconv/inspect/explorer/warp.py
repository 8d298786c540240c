"""What the sliders do to a picture: shift, turn, blur."""

import numpy as np


def warped(x: np.ndarray, across: float, down: float, turn: float, blur: float) -> np.ndarray:
    """A picture (H, W) or (H, W, C), turned by ``turn`` degrees clockwise about its middle, then shifted to the right
    and down by so many pixels, then blurred by a Gaussian of that many pixels. What comes in from outside is the
    picture's smallest value."""
    ground = float(x.min(initial=0))
    out = x.astype(np.float64) - ground
    if across or down or turn:
        out = _moved(out, across, down, np.deg2rad(turn))
    if blur:
        out = _blurred(out, blur)
    return (out + ground).astype(np.float32)


def _moved(x: np.ndarray, across: float, down: float, angle: float) -> np.ndarray:
    """For every pixel the mean of the four around the point that it comes from, weighted by nearness (bilinear)."""
    H, W = x.shape[:2]
    rows, columns = np.mgrid[:H, :W].astype(np.float64)
    i, j = rows - (H - 1) / 2 - down, columns - (W - 1) / 2 - across
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = cos * i - sin * j + (H - 1) / 2, sin * i + cos * j + (W - 1) / 2
    top, left = np.floor(u).astype(int), np.floor(v).astype(int)
    out = np.zeros_like(x)
    for k in (0, 1):
        for l in (0, 1):
            at, to = top + k, left + l
            share = (1 - np.abs(u - at)) * (1 - np.abs(v - to))
            inside = (at >= 0) & (at < H) & (to >= 0) & (to < W)
            share = np.where(inside, share, 0).reshape(H, W, *(1,) * (x.ndim - 2))
            out += share * x[np.clip(at, 0, H - 1), np.clip(to, 0, W - 1)]
    return out


def _blurred(x: np.ndarray, sigma: float) -> np.ndarray:
    """Along the rows, then along the columns, with weights out to three sigma; zeros beyond the border."""
    reach = int(np.ceil(3 * sigma))
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(x, [(reach, reach) if axis == each else (0, 0) for each in range(x.ndim)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis)
        x = windows @ weights
    return x
