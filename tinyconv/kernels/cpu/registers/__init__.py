"""Vector registers: this machine's, one vector as a value, the register tile, and moving numbers in and out.

Above ``runtime``; ``convolution`` and the families of kernels import it.
"""
