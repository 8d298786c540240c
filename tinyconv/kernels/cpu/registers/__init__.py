"""Vector registers, from the ground up.

``host`` (this machine's), ``instructions`` (how intrinsics are written, with NumPy twins), ``vector`` (one register as
a value), ``tile`` (the inner loop), ``pooled_stores`` and ``copies``. Above ``runtime``; ``convolution`` and the
families of kernels import it.
"""
