"""What the sliders do to a picture: shift, turn, blur."""

import numpy as np

from tinyconv.kernels import reference


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
    """Every pixel from the place that it comes from, by the kernel that augmentation uses too; 0 from outside."""
    H, W = x.shape[:2]
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = np.array([W - 1, H - 1]) / 2
    warp = np.column_stack([turn, middle - turn @ (middle + np.array([across, down]))])
    image = x.reshape(1, H, W, -1)
    out = np.empty_like(image)
    reference.warp_forward(out, image, warp.reshape(1, 6), np.empty(0), "constant", 0.0, "bilinear")
    return out.reshape(x.shape)


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
