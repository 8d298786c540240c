"""One file: a page that opens from the disk, without this program and without a network, and still answers.

It is the server's page, whose modules are written into it. Where they would ask the server, they ask an engine of their
own (``engine``): the page has the model, whole traces of some samples, and what explains their numbers.
"""

import base64
import copy
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from tinyconv.files import atomic
from tinyconv.files.atomic import AnyPath
from tinyconv.inspect.explorer.about import checked, described
from tinyconv.inspect.explorer.look import Look, Looking
from tinyconv.inspect.explorer.requests import Request
from tinyconv.inspect.explorer.samples import Samples
from tinyconv.inspect.explorer.server import as_json
from tinyconv.inspect.explorer.stored import Blob, Network, of_look, packed

MOST = 8  # samples whose traces are stored
ROOM = 3_000_000  # characters that they may take, but for the first

# Modules of the page that need the program, and those that stand for them.
INSTEAD = {"server.js": "stored.js", "train.js": "history.js", "breakit.js": "absent.js"}
POLICY = "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:"


def write_page(model: Any, path: AnyPath, x: Any, y: Any, class_names: Sequence[str] | None) -> Path:
    """What ``Model.explore(html=...)`` does."""
    checked(model, x, y, class_names)
    atomic.probe(path)
    samples = Samples(copy.deepcopy(model), x, y, class_names)
    samples.ask()
    looking = Looking(copy.deepcopy(model), samples)
    shown = _shown(samples)
    looks = _looks(looking, shown)
    network = Network(looking.model, looks[0][0])
    about = {
        **described(model.name, looking),
        "network": network.described(),
        "trains": looking.learns,  # the tabs stay, and say what a file cannot do
        "breaks": looking.learns,
        "accuracy": samples.accuracy,
        "samples": len(looks) if shown else 0,
        "numbers": shown[: len(looks)],
        "listed": samples.listed(shown[: len(looks)]),
        "history": None if model.history is None else dict(model.history.history),
    }
    contents = {"about": packed(as_json(about)), "weights": packed(network.blob.framed({}))}
    contents |= {f"look-{number}": each for number, (_, each) in enumerate(looks)}
    atomic.write(path, page(contents).encode())
    return Path(atomic.text_of(path))


def _shown(samples: Samples) -> list[int]:
    """The worst mistakes, and the first of the others."""
    worst = samples.order[: MOST // 2]
    return [*worst, *(i for i in range(len(samples)) if i not in worst)][:MOST]


def _looks(looking: Looking, shown: Sequence[int]) -> list[tuple[Look, str]]:
    """Traces of these samples, as many as there is room for; without samples one of an empty picture."""
    found: list[tuple[Look, str]] = []
    for index in shown or [0]:
        look, more = looking.looked(Request({"index": index}))
        blob = Blob()
        text = packed(blob.framed({**of_look(look, blob), **more}))
        if found and sum(len(each) for _, each in found) + len(text) > ROOM:
            break
        found.append((look, text))
    return found


def page(contents: dict[str, str]) -> str:
    """The page's files in one, with what it is to show."""
    own, engine = (resources.files("tinyconv.inspect.explorer").joinpath(folder) for folder in ("page", "engine"))
    texts = {file.name: file.read_text("utf-8") for folder in (engine, own) for file in folder.iterdir()}
    names = [name for name in texts if name.endswith(".js")]
    modules = {name[:-3]: _address("text/javascript", _by_name(texts[INSTEAD.get(name, name)])) for name in names}
    head = [
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f'<link rel="icon" href="{_address("image/svg+xml", texts["icon.svg"])}">',
        f"<style>\n{texts['style.css']}</style>",
        f'<script type="importmap">{json.dumps({"imports": modules})}</script>',
        *(f'<script type="text/plain" id="stored-{name}">{text}</script>' for name, text in contents.items()),
        '<script type="module">import "app";</script>',
    ]
    lines = [line for line in texts["index.html"].splitlines() if not line.startswith(("<link", "<script"))]
    at = lines.index("</head>")
    return "\n".join([*lines[:at], *head, *lines[at:]])


def _address(kind: str, text: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def _by_name(module: str) -> str:
    """A module that finds others by their bare names: one that is written into a page has no address of its own."""
    return re.sub(r'from "\./([a-z_]+)\.js"', r'from "\1"', module)
