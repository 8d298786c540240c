"""Models: layers stacked or joined, and trained through ``compile``, ``fit``, ``evaluate`` and ``predict``; no loop
over batches.

Above everything that a model is made of; only inspection, saving and the command line import it.
"""

from tinyconv.models.cloning import clone_model
from tinyconv.models.loading import load_model, model_from_json, save_model
from tinyconv.models.model import Model
from tinyconv.models.sequential import Sequential

__all__ = ["Model", "Sequential", "clone_model", "load_model", "model_from_json", "save_model"]
