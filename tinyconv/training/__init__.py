"""The loops over batches and epochs, and what they show while they run.

Above plans, layers, optimisers and callbacks; models import it.
"""
