"""Starting the explorer: a copy of the model, its samples, the server."""

import copy
import sys
import threading
import webbrowser
from collections.abc import Sequence
from typing import Any

from tinyconv.checking import console, integer
from tinyconv.inspect.explorer.about import checked, described
from tinyconv.inspect.explorer.breaker import Breaker
from tinyconv.inspect.explorer.learner import Learner
from tinyconv.inspect.explorer.look import Looking
from tinyconv.inspect.explorer.onefile import write_page
from tinyconv.inspect.explorer.requests import Request
from tinyconv.inspect.explorer.samples import Samples
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
    html: Any = None,
) -> Any:
    """What ``Model.explore`` does."""
    if html is not None:
        return write_page(model, html, x, y, class_names)
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
        checked(model, x, y, class_names)
        if train_data is not None:
            checked(model, *train_data, class_names)
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
        found = described(self._name, self._looking)
        return found | {"trains": self._learner is not None, "breaks": self._breaker is not None}

    def __repr__(self) -> str:
        return f"<Explorer of {self._name!r} at {self.address}>"

    def _repr_html_(self) -> str:
        return f'<iframe src="{self.address}" style="border:0" width="100%" height="900" title="tinyconv"></iframe>'
