"""The algorithms of a convolution and of the step conv -> ReLU -> max-pool, a file for each.

``choice.py`` says which is taken for what, and why. Above ``runtime`` and ``registers``; ``conv.py`` and
``conv_pool.py`` import it.
"""
