"""The algorithms of a convolution: direct, col2im, Winograd's, the filters' gradient, and the pooled step.

Above ``runtime`` and ``registers``; ``conv.py`` and ``conv_pool.py`` import it.
"""
