"""``tinyconv explore``: look inside a network in a browser, number by number."""

import argparse
import math
import webbrowser

import numpy as np

import tinyconv
from tinyconv import layers
from tinyconv.commands.common import Result, compiled, images, integer, say


def add(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", nargs="?", metavar="MODEL", help="a network saved as .keras (a new, untrained one)")
    command.add_argument("--dataset", metavar="NAME", help="whose test images to show (mnist, if it fits)")
    command.add_argument("--port", type=integer(0, 65535), default=0, help="where to serve the page (any free port)")
    command.add_argument("--no-browser", action="store_true", help="open no browser; print the page's address alone")
    command.add_argument("--html", metavar="FILE", help="write the page as one file, which needs no program, and end")


def run(options: argparse.Namespace) -> Result:
    from tinyconv.inspect.explorer import Explorer

    ((x_train, y_train), (x, y), names), fits = images(options.dataset or "mnist"), True
    model: tinyconv.Model = compiled(x.shape[1:], len(names), "auto")
    if options.model is not None:
        model = tinyconv.saving.load_model(options.model)
        fits = not isinstance(model.input_shape, list) and math.prod(model.input_shape[1:]) == math.prod(x.shape[1:])
        if options.dataset and not fits:
            raise ValueError(f"{options.model!r} takes {model.input_shape}, and {options.dataset!r} has {x.shape[1:]}.")
    scaled = any(isinstance(layer, layers.Rescaling) for layer in model.layers)
    x, x_train = (each if scaled else each.astype(np.float32) / 255 for each in (x, x_train))
    if options.html is not None:
        shown = {"x": x, "y": y, "class_names": names} if fits else {}
        written = model.explore(**shown, html=options.html)
        say(options, f"{written}: {written.stat().st_size / 1e6:.1f} MB")
        return {"file": str(written), "bytes": written.stat().st_size}
    if fits:
        explorer = Explorer(model, x, y, names, (x_train, y_train), options.port)
    else:
        explorer = Explorer(model, port=options.port)
    if not options.no_browser:
        webbrowser.open(explorer.address)
        say(options, "The page is at this address. Ctrl-C ends it.")
    say(options, explorer.address)
    explorer.wait()
    return {"address": explorer.address}
