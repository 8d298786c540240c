"""Models into files, and out of files and JSON texts."""

from collections.abc import Mapping
from typing import Any

from tinyconv.checking import boolean, invalid
from tinyconv.checking.messages import explained, refuse
from tinyconv.files import atomic, checked_json, keras_archive, keras_config, keras_weights
from tinyconv.files.registered import CustomObjectScope
from tinyconv.files.targets import KERAS_ARCHIVE, kind_of, read
from tinyconv.models.model import Model
from tinyconv.models.rebuilt import made

CustomObjects = Mapping[str, type] | None


@explained
def save_model(model: Model, filepath: atomic.AnyPath, overwrite: bool = True, zipped: None = None) -> None:
    """``model.save(filepath, overwrite)``."""
    if not isinstance(model, Model):
        raise invalid("save_model", "model", "a Sequential or a Model", model)
    model.save(filepath, overwrite, zipped)  # type: ignore[arg-type]


@explained
def load_model(
    filepath: atomic.AnyPath,
    custom_objects: CustomObjects = None,
    compile: bool = True,
    safe_mode: bool = True,
    *,
    backend: str | None = None,
) -> Model:
    """The model of a ".keras" archive that tinyconv or Keras saved, ready to predict, and to train where it stopped.

    Args:
        filepath: the file.
        custom_objects: classes of your own by name, {"MyLayer": MyLayer}, unless they are registered (see
            :func:`tinyconv.saving.register_keras_serializable`).
        compile: whether to compile it too, with the loss, metrics and optimiser it was saved with.
        safe_mode: must be True: no file is read in any other way.
        backend: which kernels compute, as in :meth:`tinyconv.Sequential.compile`.
    """
    refuse("load_model()", {"safe_mode": safe_mode}, {"safe_mode": (True,)})
    kind_of(filepath, KERAS_ARCHIVE)
    with CustomObjectScope(custom_objects):
        return model_of(*read(filepath), boolean("load_model", "compile", compile), backend)


def model_of(content: bytes, where: str, compile: bool = True, backend: str | None = None) -> Model:
    """The model that an archive's bytes hold; ``where`` they come from."""
    with keras_archive.reading(where):
        saved = keras_archive.loads(content, where, compile)
        model = made(saved.model)
        model.seed = model.seed if saved.seed is None else saved.seed
        model.set_weights(saved.weights)
        if saved.compilation is not None:
            model.compile(**saved.compilation, backend=backend)
            keras_weights.load_optimizer(model, saved.groups, where, same=True)
    return model


@explained
def model_from_json(json_string: str, custom_objects: CustomObjects = None) -> Any:
    """A model like the one whose ``to_json`` gave this text, with new weights; compiled, if that one was.

    Args:
        json_string: the text; Keras' are welcome.
        custom_objects: as in :func:`load_model`.
    """
    if not isinstance(json_string, str):
        raise invalid("model_from_json", "json_string", "a text, as to_json() gives it", json_string)
    where = "The text of model_from_json"
    with CustomObjectScope(custom_objects), keras_archive.reading(where):
        config = checked_json.loads(json_string.encode(), where, keras_archive.LARGEST_CONFIG)
        model = made(keras_config.to_model(config, where))
        if config.get("compile_config"):
            model.compile(**keras_config.to_compilation(config["compile_config"], where))
    return model
