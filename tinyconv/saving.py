"""Models and weights in files.

    model.save_weights("m.safetensors")     the weights, sealed with their SHA-256
    model.save_weights("m.weights.h5")      the same in Keras' own layout, the optimiser's state included
    model.save("m.keras")                   everything: layers, weights, optimiser; Keras opens it, and the reverse
    model = tinyconv.saving.load_model("m.keras")

A file is read as data and nothing else: nothing in it is executed, imported or turned into a path, what it may take
of memory is bounded by its own size, and whatever does not fit exactly is an error. Classes of your own that it names
are known by :func:`register_keras_serializable` or ``custom_objects``. Files are written atomically
(:mod:`tinyconv.files.atomic`).
"""

from tinyconv.files.registered import (
    CustomObjectScope,
    custom_object_scope,
    get_custom_objects,
    get_registered_name,
    get_registered_object,
    register_keras_serializable,
)
from tinyconv.files.store import load_weights, save_weights
from tinyconv.files.targets import check_target
from tinyconv.models.loading import load_model, model_of, save_model

__all__ = [
    "CustomObjectScope",
    "check_target",
    "custom_object_scope",
    "get_custom_objects",
    "get_registered_name",
    "get_registered_object",
    "load_model",
    "load_weights",
    "model_of",
    "register_keras_serializable",
    "save_model",
    "save_weights",
]
