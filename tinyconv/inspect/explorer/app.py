"""Starting the explorer: a copy of the model, its samples, the server."""

import copy
import math
import sys
import threading
import webbrowser
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv.checking import console, integer
from tinyconv.inspect.explorer.breaker import Breaker
from tinyconv.inspect.explorer.columns import columns
from tinyconv.inspect.explorer.learner import Learner
from tinyconv.inspect.explorer.look import Looking
from tinyconv.inspect.explorer.requests import Request
from tinyconv.inspect.explorer.samples import Samples, question
from tinyconv.inspect.explorer.server import Answer, Server
from tinyconv.network import Network


def explore(
    model: Network,
    x: Any = None,
    y: Any = None,
    class_names: Sequence[str] | None = None,
    train_data: tuple[Any, Any] | None = None,
    port: int = 0,
    open_browser: bool = True,
    block: bool | None = None,
) -> "Explorer":
    """What ``Model.explore`` does."""
    explorer = Explorer(model, x, y, class_names, train_data, port)
    interactive = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    if open_browser and "ipykernel" not in sys.modules:
        webbrowser.open(explorer.address)
    if block or (block is None and not interactive):
        console.write(f"The explorer is at {explorer.address}\nCtrl-C ends it.")
        explorer.wait()
    return explorer


class Explorer:
    """A running explorer: its address, and how to end it. In a notebook, the page itself."""

    def __init__(
        self,
        model: Any,
        x: Any = None,
        y: Any = None,
        class_names: Sequence[str] | None = None,
        train_data: tuple[Any, Any] | None = None,
        port: int = 0,
    ) -> None:
        _check(model, x, y, class_names)
        if train_data is not None:
            _check(model, *train_data, class_names)
        integer("explore", "port", port, at_least=0)
        self._name = model.name
        self._samples = Samples(copy.deepcopy(model), x, y, class_names)
        self._looking = Looking(copy.deepcopy(model), self._samples)
        self._learner = None
        answers: dict[str, Answer] = {
            "model": self._described,
            "samples": self._samples.page,
            "look": self._looking.look,
            "explain": lambda request: self._looking.of(request).explained(request),
            "measure": lambda request: self._looking.of(request).measured(request),
            "maps": lambda request: self._looking.of(request).maps(request),
        }
        if train_data is not None and self._looking.learns:
            self._learner = self._looking.learner = Learner(model, train_data, None if y is None else (x, y))
            answers |= {"train": self._learner.act, "progress": self._learner.progress, "film": self._learner.film}
            answers["adopt"] = self._adopt
        self._breaker = None
        data = train_data if train_data is not None else (x, y)
        if data[1] is not None and self._looking.learns:
            looking = self._looking
            self._breaker = looking.breaker = Breaker(lambda: looking.model, self._samples, data)
            answers |= {"break": self._breaker.begin, "broken": self._breaker.known}
        self._server = Server(answers, port)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()
        self._samples.start()

    @property
    def address(self) -> str:
        """Where the page is."""
        return self._server.address

    def wait(self) -> None:
        """Until Ctrl-C."""
        try:
            while self._thread.is_alive():
                self._thread.join(0.5)
        except KeyboardInterrupt:
            console.write("")
        finally:
            self.close()

    def close(self) -> None:
        """End it; the page shows what it has."""
        self._server.shutdown()
        self._server.server_close()
        self._samples.close()
        for each in (self._learner, self._breaker):
            if each is not None:
                each.close()
        self._thread.join(5)

    def _adopt(self, request: Request) -> dict[str, Any]:
        """What has been trained becomes what is looked at."""
        assert self._learner is not None
        if self._learner.step:
            self._looking.adopt()
            self._samples.again(copy.deepcopy(self._learner.model))
        return self._described(request)

    def _described(self, request: Request) -> dict[str, Any]:
        model, samples = self._looking.model, self._samples
        optimizer = model.optimizer
        return {
            "name": self._name,
            "parameters": model.count_params(),
            "step": optimizer.iterations if optimizer is not None else 0,
            "optimizer": type(optimizer).__name__ if optimizer is not None else None,
            "learns": self._looking.learns,
            "columns": columns(model),
            "samples": len(samples),
            "labelled": samples.truths is not None,
            "image": list(samples.shape) if samples.is_image else None,
            "range": samples.range,
            "question": samples.kind,
            "names": samples.names,
            "batched": self._looking.batched,
            "trains": self._learner is not None,
            "breaks": self._breaker is not None,
        }

    def __repr__(self) -> str:
        return f"<Explorer of {self._name!r} at {self.address}>"

    def _repr_html_(self) -> str:
        return f'<iframe src="{self.address}" style="border:0" width="100%" height="900" title="tinyconv"></iframe>'


def _check(model: Any, x: Any, y: Any, class_names: Any) -> None:
    """Refuse what the page could not show."""
    if not model.built:
        raise ValueError(f"Model {model.name!r} is not built. Expected weights. Fix: begin it with Input(...).")
    if isinstance(model.input_shape, list):
        count = len(model.input_shape)
        raise ValueError(f"The explorer shows models of one input. Received: model {model.name!r}, with {count}.")
    shape = tuple(model.input_shape[1:])
    if x is None:
        if y is not None:
            raise ValueError("y without x. Expected the samples that the targets belong to.")
        return
    found = np.shape(x)
    if not found or not found[0] or math.prod(found[1:]) != math.prod(shape):
        raise ValueError(f"x: expected samples of shape {shape}, at least one. Received: an array of shape {found}.")
    if y is not None and len(y) != found[0]:
        raise ValueError(f"x and y differ in length. Expected the same. Received: {found[0]} and {len(y)}.")
    kind, count = question(model)
    if class_names is not None and kind != "numbers" and len(class_names) != count:
        raise ValueError(f"class_names: expected {count} names. Received: {len(class_names)}.")
