"""The matrix product that convolutions and dense layers share.

Above ``runtime``; ``conv.py``, ``conv_pool.py`` and ``dense.py`` import it.
"""
