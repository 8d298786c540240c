"""Models: layers stacked, and trained through ``compile``, ``fit``, ``evaluate`` and ``predict``; no loop over batches.

Above everything that a model is made of; only inspection, saving and the command line import it.
"""
