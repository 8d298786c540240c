"""The README's picture of the explorer: ``python -m benchmarks.screenshot`` trains a network, opens the page in a real
browser, and writes examples/explorer.png. Needs the extras "browser" and "images", and Debian's chromium."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

import tinyconv
from tests.browser import Browser
from tinyconv.commands.common import compiled
from tinyconv.inspect.explorer import Explorer

TARGET = Path(__file__).parent.parent / "examples" / "explorer.png"
VIEW = "stop=12&focus=max_pooling2d&map=8&theme=light"  # conv2d_1, backward


def trained() -> Explorer:
    """The example's network after two epochs, with the test images."""
    tinyconv.utils.set_random_seed(1)
    (x_train, y_train), (x, y) = tinyconv.datasets.mnist.load_data()
    model = compiled((28, 28, 1), 10, "auto")
    x_train, x = (each[..., None].astype(np.float32) / 255 for each in (x_train, x))
    model.fit(x_train, y_train, batch_size=128, epochs=2)
    return Explorer(model, x, y, train_data=(x_train, y_train))


def main() -> None:
    explorer, browser = trained(), Browser()
    try:
        browser.size(1440, 900)
        browser.open(f"{explorer.address}#{VIEW}")
        browser.wait("S.listed && S.listed.ready", seconds=120)
        worst = browser.run("S.listed.items[1].index")  # the second, so that the first is seen to be another
        browser.open(f"{explorer.address}#{VIEW}&sample={worst}")
        browser.wait("S.measured && S.listed && S.listed.ready")
        picture = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")
    finally:
        browser.close()
        explorer.close()
    picture.quantize(255, dither=Image.Dither.NONE).save(TARGET, optimize=True)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
