"""Ten classic mistakes, made on purpose in copies of the reference's kernels: what do the loss and the check say?"""

import copy
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from tinyconv.inspect import mistakes as lab
from tinyconv.inspect.explorer.worker import compiled_again
from tinyconv.kernels import reference
from tinyconv.trace.explanation import reference_to

Kernel = Callable[..., None]


@dataclass(frozen=True)
class Mistake:
    """What goes wrong: kernels that are changed, or how training is set up.

    ``lab``: which of :data:`tinyconv.inspect.mistakes.MISTAKES` it is. ``spoils``: where the same is done wrong in
    further kernels than that one's, what spoils the results of each of them.
    """

    title: str
    remark: str
    lab: str = ""
    spoils: Mapping[str, Callable[..., None]] = field(default_factory=dict)
    rate: float = 1.0  # what the learning rate is multiplied by
    sorted: bool = False  # whether the data come class by class

    @property
    def changes(self) -> tuple[str, ...]:
        """The names of the kernels that it changes."""
        if self.spoils or not self.lab:
            return tuple(self.spoils)
        made = lab.MISTAKES[self.lab]
        return tuple(filter(None, (made.kernel, made.also)))

    @property
    def kernels(self) -> dict[str, Kernel]:
        """These kernels, changed."""
        if self.spoils:
            return {name: _after(getattr(reference, name), spoil) for name, spoil in self.spoils.items()}
        return {name: lab.MISTAKES[self.lab].kernels[name] for name in self.changes}


def _after(kernel: Kernel, spoil: Callable[..., None]) -> Kernel:
    """The kernel, and then what spoils its result; ``spoil`` takes its arguments by name."""
    signature = inspect.signature(kernel)

    def wrong(*arguments: Any, **named: Any) -> None:
        kernel(*arguments, **named)
        spoil(**signature.bind(*arguments, **named).arguments)

    return wrong


def _times_rows(**arrays: Any) -> None:
    gradient = next(iter(arrays.values()))
    gradient *= len(gradient)


def _no_bias(db: Any, **_: Any) -> None:
    db[...] = 0


LOSSES = [name for name in reference.__all__ if name.endswith("_backward") and hasattr(reference.loss, name)]
AFFINE = ("conv2d_backward", "dense_backward", "depthwise_conv2d_backward", "conv2d_transpose_backward")
HIDES = "Adam divides by the size of the gradient, so a constant factor hardly shows."

MISTAKES: dict[str, Mistake] = {
    "none": Mistake("No mistake", ""),
    "turn": Mistake(
        "Filters not turned in dX",
        "The layer learns from a wrong gradient, and the layers after it make up for it.",
        "filters-not-turned",
    ),
    "pool": Mistake("Pool pays all four", "The losers learn as if they had won.", "pool-pays-all"),
    "mask": Mistake(
        "Mask of ReLU forgotten", "What ReLU shut learns too, though it had no say.", "relu-mask-forgotten"
    ),
    "mean": Mistake("Loss not divided by N", HIDES, "mean-forgotten", dict.fromkeys(LOSSES, _times_rows)),
    "scale": Mistake("Dropout not rescaled", HIDES, "mask-not-scaled"),
    "shift": Mistake("dX one row off", "As if the padding were counted wrong: the loss may not notice.", "one-row-off"),
    "bias": Mistake(
        "No bias gradient",
        "Biases stay where they began, and the weights do without.",
        "dense-bias-missing",
        dict.fromkeys(AFFINE, _no_bias),
    ),
    "nocorr": Mistake(
        "Adam uncorrected", "Its first steps are larger, and a short run may even win.", "adam-uncorrected"
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
    vars(changed).update(mistake.kernels)
    return changed


def kernels_of(model: Any) -> set[str]:
    """The names of the kernels that the model runs when nothing is fused."""
    return {step.kernel_name for step in broken(model, MISTAKES["none"], fuse=False).plan.all_steps()}


def broken(model: Any, mistake: Mistake, fuse: bool = True) -> Any:
    """A copy of a model that computes with the mistake."""
    own = copy.deepcopy(model)
    compiled_again(own, backend="reference", fuse=fuse)
    put_in(own, mistake)
    return own


def put_in(model: Any, mistake: Mistake) -> None:
    """Let a compiled model compute with the mistake."""
    trainer = model._need_trainer("explore", None)
    trainer.kernels = trainer.state.kernels = broken_kernels(mistake)


def line_of(mistake: Mistake) -> dict[str, Any] | None:
    """The line that is wrong: as it stands, and as it then reads."""
    if not mistake.lab:
        return None
    made = lab.MISTAKES[mistake.lab]
    found = reference_to(getattr(made.module, made.functions[0]), made.right)
    right = found.code[found.marked - found.line]
    wrong = textwrap.dedent(right.replace(made.right, made.wrong))
    return {"file": found.file, "line": found.marked, "right": right.strip(), "wrong": wrong.strip()}
