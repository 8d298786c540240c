"""Ten classic mistakes, made on purpose in copies of the reference's kernels: what do the loss and the check say?"""

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from tinyconv.kernels import reference
from tinyconv.trace.explanation import reference_to

Kernel = Callable[..., None]
Change = Callable[[Kernel], Kernel]


@dataclass(frozen=True)
class Mistake:
    """What goes wrong: kernels that are changed, or how training is set up.

    ``line``: the kernel and a part of the line in which the mistake is made, and that line as it then reads.
    """

    title: str
    remark: str
    line: tuple[Kernel, str, str] | None = None
    changes: Mapping[str, Change] = field(default_factory=dict)
    rate: float = 1.0  # what the learning rate is multiplied by
    sorted: bool = False  # whether the data come class by class


def after(then: Callable[..., None]) -> Change:
    """The kernel, and then what spoils its result; ``then`` takes its arguments by name."""

    def change(kernel: Kernel) -> Kernel:
        signature = inspect.signature(kernel)

        def wrong(*arguments: Any, **named: Any) -> None:
            kernel(*arguments, **named)
            then(**signature.bind(*arguments, **named).arguments)

        return wrong

    return change


def _not_turned(kernel: Kernel) -> Kernel:
    def wrong(dx: Any, dw: Any, db: Any, dout: Any, x: Any, w: Any, *rest: Any, **named: Any) -> None:
        kernel(dx, dw, db, dout, x, np.ascontiguousarray(w[::-1, ::-1]), *rest, **named)

    return wrong


def _pay_all(kernel: Kernel) -> Kernel:
    def wrong(dx: Any, dout: Any, argmax: Any, pool_size: Any, strides: Any, padding: Any) -> None:
        reference.average_pool2d_backward(dx, dout, pool_size, strides, padding)
        dx *= math.prod(pool_size)

    return wrong


def _no_mask(kernel: Kernel) -> Kernel:
    def wrong(dx: Any, dout: Any, x: Any, out: Any, kind: str, options: Any) -> None:
        if kind == "relu":
            dx[...] = dout
        else:
            kernel(dx, dout, x, out, kind, options)

    return wrong


def _times_rows(**arrays: Any) -> None:
    gradient = next(iter(arrays.values()))
    gradient *= len(gradient)


def _less(dx: Any, rate: float, **_: Any) -> None:
    dx *= 1 - rate


def _shifted(dx: Any, **_: Any) -> None:
    if dx.size:
        dx[...] = np.roll(dx, 1, axis=1)


def _no_bias(db: Any, **_: Any) -> None:
    db[...] = 0


def _uncorrected(kernel: Kernel) -> Kernel:
    def wrong(params: Any, m: Any, v: Any, grads: Any, counters: Any, *rest: Any, **named: Any) -> None:
        late = counters.copy()
        late[0] = 10**6  # so many steps on, there is nothing to correct
        kernel(params, m, v, grads, late, *rest, **named)

    return wrong


LOSSES = [name for name in reference.__all__ if name.endswith("_backward") and hasattr(reference.loss, name)]
AFFINE = ("conv2d_backward", "dense_backward", "depthwise_conv2d_backward", "conv2d_transpose_backward")
HIDES = "Adam divides by the size of the gradient, so a constant factor hardly shows."

MISTAKES: dict[str, Mistake] = {
    "none": Mistake("No mistake", ""),
    "turn": Mistake(
        "Filters not turned in dX",
        "The layer learns from a wrong gradient, and the layers after it make up for it.",
        (reference.conv2d_backward, "_scatter(", "_scatter(dx, dout, w[::-1, ::-1], strides, padding, dilation)"),
        {"conv2d_backward": _not_turned},
    ),
    "pool": Mistake(
        "Pool pays all four",
        "The losers learn as if they had won.",
        (reference.max_pool2d_backward, "dx[there] +=", "dx[there] += dout[here]"),
        {"max_pool2d_backward": _pay_all},
    ),
    "mask": Mistake(
        "Mask of ReLU forgotten",
        "What ReLU shut learns too, though it had no say.",
        (reference.activation.relu_gradient, "np.where", "return dout"),
        {"activation_backward": _no_mask},
    ),
    "mean": Mistake(
        "Loss not divided by N",
        HIDES,
        (reference.softmax_cross_entropy_backward, "len(probs)", "dlogits[...] = probs * targets.sum(...) - targets"),
        dict.fromkeys(LOSSES, after(_times_rows)),
    ),
    "scale": Mistake(
        "Dropout not rescaled",
        HIDES,
        (reference.dropout_backward, "dropout_forward(", "dx[...] = np.where(keep_mask(...), dout, 0)"),
        {"dropout_backward": after(_less)},
    ),
    "shift": Mistake(
        "dX one row off",
        "As if the padding were counted wrong: the loss may not notice.",
        (reference.conv2d_backward, "_scatter(", "_scatter(np.roll(dx, 1, axis=1), ...)"),
        {"conv2d_backward": after(_shifted)},
    ),
    "bias": Mistake(
        "No bias gradient",
        "Biases stay where they began, and the weights do without.",
        (reference.dense_backward, "db[...]", "db[...] = 0"),
        dict.fromkeys(AFFINE, after(_no_bias)),
    ),
    "nocorr": Mistake(
        "Adam uncorrected",
        "Its first steps are larger, and a short run may even win.",
        (reference.adam_update, "step_size =", "step_size = rate"),
        {"adam_update": _uncorrected},
    ),
    "rate": Mistake(
        "Learning rate × 100",
        "Every gradient is right, and yet it does not learn.",
        rate=100,
    ),
    "sorted": Mistake(
        "Data not shuffled",
        "It learns the class of the moment and forgets the others.",
        sorted=True,
    ),
}


def broken_kernels(mistake: Mistake) -> ModuleType:
    """The reference with the mistake in it: a module of its own, of which the reference knows nothing."""
    changed = ModuleType(reference.__name__)
    vars(changed).update(vars(reference))
    for name, change in mistake.changes.items():
        setattr(changed, name, change(getattr(reference, name)))
    return changed


def kernels_of(model: Any) -> set[str]:
    """The names of the kernels that the model runs when nothing is fused."""
    return {step.kernel_name for step in broken(model, MISTAKES["none"], fuse=False).plan.all_steps()}


def broken(model: Any, mistake: Mistake, fuse: bool = True) -> Any:
    """A copy of a model that computes with the mistake."""
    own = copy.deepcopy(model)
    own.compile(own.optimizer, own.loss, backend="reference", fuse=fuse)
    put_in(own, mistake)
    return own


def put_in(model: Any, mistake: Mistake) -> None:
    """Let a compiled model compute with the mistake."""
    trainer = model._need_trainer("explore", None)
    trainer.kernels = trainer.state.kernels = broken_kernels(mistake)


def line_of(mistake: Mistake) -> dict[str, Any] | None:
    """The line that is wrong: as it stands, and as it would."""
    if mistake.line is None:
        return None
    kernel, mark, wrong = mistake.line
    found = reference_to(kernel, mark)
    return {"file": found.file, "line": found.marked, "right": found.marked_code, "wrong": wrong}
