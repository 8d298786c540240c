"""The plan: *when* and *where*. A network lowered to lists of kernel calls over buffers that are allocated once.

Above the kernels; layers, optimisers, the training loops and models import it.
"""
