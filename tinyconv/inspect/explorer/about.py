"""What the page begins with: the model and its samples; and what it could not show."""

from typing import Any

from tinyconv.inspect.explorer.columns import columns
from tinyconv.inspect.explorer.data import Data
from tinyconv.inspect.explorer.look import Looking
from tinyconv.inspect.explorer.samples import question


def described(name: str, looking: Looking) -> dict[str, Any]:
    """A model and its samples, as the page begins with them."""
    model, samples = looking.model, looking.samples
    optimizer = model.optimizer
    return {
        "name": name,
        "parameters": model.count_params(),
        "step": optimizer.iterations if optimizer is not None else 0,
        "optimizer": type(optimizer).__name__ if optimizer is not None else None,
        "learns": looking.learns,
        "columns": columns(model),
        "samples": len(samples),
        "labelled": samples.truths is not None,
        "image": list(samples.shape) if samples.is_image else None,
        "lead": samples.lead,
        "range": samples.range,
        "question": samples.kind,
        "names": samples.names,
        "batched": looking.batched,
    }


def checked(model: Any, x: Any, y: Any, class_names: Any) -> None:
    """Refuse what the page could not show."""
    if not model.built:
        raise ValueError(f"Model {model.name!r} is not built. Expected weights. Fix: begin it with Input(...).")
    if x is None and y is not None:
        raise ValueError("y without x. Expected the samples that the targets belong to.")
    if x is not None:
        Data.of(model, x, y)
    kind, count = question(model)
    if class_names is not None and kind != "numbers" and len(class_names) != count:
        raise ValueError(f"class_names: expected {count} names. Received: {len(class_names)}.")
