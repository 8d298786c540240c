"""Float32 constants for kernels, in which a Python float is a float64 and makes one of all that it meets."""

import numpy as np

ZERO, HALF, ONE, TWO = (np.float32(value) for value in (0, 0.5, 1, 2))
