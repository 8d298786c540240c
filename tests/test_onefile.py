"""The page that is one file, opened from the disk with no network: what it shows and computes is the library's."""

import base64
import re

import numpy as np
import pytest

import tinyconv
from tests.browser import Browser
from tests.test_explorer_page import network
from tinyconv import layers
from tinyconv.inspect.explorer.look import Looking, plain
from tinyconv.inspect.explorer.requests import Request
from tinyconv.inspect.explorer.samples import Samples
from tinyconv.kernels import reference
from tinyconv.kernels.reference.activation import FORMULAS


def everything(still=False):
    """A graph with every op that the page's engine knows. ``still``: it learns as it is used: nothing is dropped, and
    batch normalisation goes by its moving statistics."""
    tinyconv.utils.set_random_seed(3)
    x = tinyconv.Input((12, 12, 1), name="picture")
    y = layers.Rescaling(2.0, offset=-0.5)(x)
    y = layers.Conv2D(4, 3, strides=2, padding="same", activation="tanh")(layers.ZeroPadding2D(1)(y))
    a = layers.BatchNormalization(trainable=not still)(layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(y))
    b = layers.Conv2D(8, 3, dilation_rate=2, padding="same", activation="gelu", kernel_regularizer="l2")(y)
    c = layers.SeparableConv2D(8, 3, padding="same", activation="leaky_relu")(y)
    y = layers.Concatenate()(
        [layers.Add()([a, b]), layers.Multiply()([b, c]), layers.Maximum()([a, c]), layers.Minimum()([b, c])]
    )
    pools = layers.AveragePooling2D(3, 2, padding="same"), layers.MaxPooling2D(3, 2, padding="same")
    y = layers.Average()([pool(y) for pool in pools])
    y = layers.Conv2DTranspose(6, 3, strides=2, activation="elu")(y)
    y = layers.UpSampling2D(2)(layers.Subtract()([y, layers.Activation("silu")(y)]))
    y = layers.Concatenate()([layers.GlobalAveragePooling2D()(y), layers.GlobalMaxPooling2D()(y)])
    y = layers.Dropout(0 if still else 0.4)(y)
    y = layers.Dense(4, activation="softmax")(layers.LayerNormalization()(layers.Dense(9, activation="relu")(y)))
    model = tinyconv.Model(x, y)
    loss = tinyconv.losses.CategoricalCrossentropy(label_smoothing=0.1)
    model.compile(tinyconv.optimizers.SGD(0.1, 0.9, weight_decay=0.01, clipnorm=0.5), loss, backend="reference")
    rng = np.random.default_rng(0)
    samples = rng.random((6, 12, 12, 1), np.float32), np.eye(4, dtype=np.float32)[rng.integers(0, 4, 6)]
    for _ in range(0 if still else 2):
        model.train_on_batch(*samples)
    return model, samples


def branches():
    """Two inputs, two branches that meet, and a batch normalisation that learns."""
    tinyconv.utils.set_random_seed(2)
    image, facts = tinyconv.Input((8, 8, 1), name="picture"), tinyconv.Input((5,), name="facts")
    left = layers.Conv2D(3, 3, padding="same", activation="relu", name="left")(image)
    right = layers.BatchNormalization(name="norm")(layers.Conv2D(3, 3, padding="same", name="right")(image))
    x = layers.MaxPooling2D(2, name="pool")(layers.Add(name="join")([left, right]))
    both = [layers.Flatten(name="flat")(x), layers.Dense(4, activation="tanh", name="beside")(facts)]
    kind = layers.Dense(3, activation="softmax", name="kind")(layers.Concatenate(name="both")(both))
    model = tinyconv.Model([image, facts], kind)
    model.compile("adam", "sparse_categorical_crossentropy", backend="reference")
    rng = np.random.default_rng(0)
    x = [rng.random((10, 8, 8, 1), np.float32), rng.random((10, 5), np.float32)]
    return model, (x, rng.integers(0, 3, 10))


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    browser.offline()
    browser.size(1440, 900)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def digits():
    _, (x, y) = tinyconv.datasets.mnist.load_data()
    x, y = x[:60, ..., None].astype(np.float32) / 255, y[:60]
    model = network()
    model.fit(x, y, batch_size=20, epochs=2, validation_split=0.2, verbose=0)
    return model, (x, y)


@pytest.fixture(scope="module")
def written(digits, tmp_path_factory):
    model, (x, y) = digits
    return model.explore(x, y, html=tmp_path_factory.mktemp("page") / "digits.html")


@pytest.fixture
def page(browser, written):
    browser.open(f"{written.as_uri()}#theme=light")
    browser.wait("S.explanation")
    yield browser
    assert browser.complaints() == []


def asked(page, question, **body):
    """What the page answers itself, the numbers of a look as a list."""
    return page.run(
        "import('stored').then(m => m.post(a, b)).then(r => r.data ? { ...r, data: [...r.data] } : r)", question, body
    )


def looking_at(model, samples):
    """The library's looks, as a page on a server has them."""
    return Looking(model, Samples(model, *samples, None))


def bands(look, kinds=("value", "gradient", "weight", "step")):
    """Every array that the page shows, as the library has it."""
    for number, column in enumerate(look.columns):
        for band, what in look.names(number).items():
            if band.split("/")[0] in kinds:
                yield number, column["name"], band, what, look.shown(column["name"], what)


def compared(found, look, *kinds):
    """Every array of a look that the page has answered with the library's. A step is a difference of two weights."""
    for number, name, band, what, array in bands(look, *kinds):
        entry = found["columns"][number][band]
        shown = np.reshape(found["data"][entry["at"] : entry["at"] + array.size], array.shape)
        size = max(float(np.abs(array).max()), 1e-3)
        assert (entry["what"], entry["shape"]) == (what, list(array.shape))
        rounding = np.spacing(np.abs(look.array(name, what.removeprefix("step/"))).max()) if "/" in what else 0
        np.testing.assert_allclose(shown, array, rtol=1e-5, atol=max(1e-5 * size, rounding), err_msg=f"{name}, {what}")


def same(mine, theirs, where=""):
    """Whether the page explains as the library does: names, places and sentences alike, numbers nearly."""
    if isinstance(theirs, dict):
        assert set(theirs) <= set(mine), (where, set(theirs) ^ set(mine))
        for name in theirs:
            same(mine[name], theirs[name], f"{where}.{name}")
    elif isinstance(theirs, list | tuple):
        assert len(mine) == len(theirs), (where, mine, theirs)
        for number, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            same(a, b, f"{where}[{number}]")
    elif isinstance(theirs, float | int) and not isinstance(theirs, bool):
        assert mine == pytest.approx(theirs, rel=2e-4, abs=2e-6), where
    elif isinstance(theirs, str):
        words = [re.sub(r"-?[\d.]+(e-?\d+)?", "#", text) for text in (mine, theirs)]  # numbers are rounded there
        assert words[0] == words[1], (where, mine, theirs)
    else:
        assert mine == theirs, where


def explained(page, look, number, places, *kinds, but=()):
    """The page's explanations at random places of every array, each beside the library's."""
    rng = np.random.default_rng(1)
    for _, name, _, what, array in bands(look, *kinds):
        for _ in range(0 if name in but else places):
            place = tuple(int(i) for i in np.unravel_index(rng.integers(array.size), array.shape))
            if rng.random() < 0.5 and array.any():
                place = tuple(int(i) for i in np.argwhere(array)[rng.integers(np.count_nonzero(array))])
            mine = asked(page, "explain", look=number, layer=name, what=what, place=place)
            weight = look.is_weight(name, what)
            theirs = plain(look.explanation(name, what, place if weight else (0, *place)))
            same(mine, theirs, f"{name} {what} {place}")


def test_a_stored_trace_is_the_librarys(page, digits):
    model, samples = digits
    index = page.run("S.model.numbers[0]")
    assert page.run("[S.look.truth, S.look.answer]") != [None, None]
    look, _ = looking_at(model, samples).looked(Request({"index": index}))
    found = asked(page, "look", index=0)
    compared(found, look)
    explained(page, look, found["look"], 3)
    same(asked(page, "explain", look=found["look"], layer="loss", what="losses", place=[]),
         plain(look.trace["loss"].explain("losses", (0,))))  # fmt: skip


def measured(page, look, number):
    """Of every array of gradients one number nudged by the page, and by the library."""
    rng, verdicts = np.random.default_rng(2), []
    for _, name, band, what, array in bands(look):
        if band == "gradient":
            place = [int(i) for i in np.unravel_index(rng.integers(array.size), array.shape)]
            mine = asked(page, "measure", look=number, layer=name, what=what, place=place)
            theirs = look.trace[name].nudge(what, (0, *place))
            assert mine["slope"] == pytest.approx(theirs.slope, rel=1e-3, abs=1e-7), (name, place)
            assert mine["verdict"] == theirs.verdict, (name, place)
            verdicts.append(mine["verdict"])
    return verdicts


def opened(browser, model, samples, folder, until="S.explanation"):
    """Write a model's page and open it; what ``until`` was when it was true."""
    browser.open(model.explore(*samples, html=folder / "page.html").as_uri())
    return browser.wait(until)


@pytest.mark.long
def test_every_op_forward_and_backward(browser, tmp_path):
    """Of a stored trace, and, by the page's own engine, of samples that it has not stored: moved, and drawn."""
    model, samples = everything()
    opened(browser, model, samples, tmp_path)
    index = browser.run("S.model.numbers[0]")
    stored, _ = looking_at(model, samples).looked(Request({"index": index}))
    found = asked(browser, "look", index=0)
    compared(found, stored)
    explained(browser, stored, found["look"], 2)
    still, _ = everything(still=True)
    still.set_weights(model.get_weights())
    looking = looking_at(still, samples)
    drawn = base64.b64encode(np.random.default_rng(5).integers(0, 256, 144, np.uint8).tobytes()).decode()
    for own, body in ({}, {"pixels": drawn}), ({"index": 0}, {"index": index, "across": 1.5, "turn": 25, "blur": 0.6}):
        look, more = looking.looked(Request(body))
        found = asked(browser, "look", **{**body, **own})
        assert {**found, "moment": None} | more == {**found, "moment": None}
        assert found["loss"]["value"] == pytest.approx(look.trace.loss, rel=1e-6)
        compared(found, look, ("value", "gradient"))
        around = ("dropout", "concatenate_1")  # which is no op in a model that is still
        explained(browser, look, found["look"], 1, ("value", "gradient"), but=around)
        assert "agrees" in measured(browser, look, found["look"])
    assert browser.complaints() == []


def test_a_digit_is_drawn_moved_and_explained(page, digits):
    """By the page's engine alone, with the controls of the page."""
    model, _ = digits
    page.click("[data-key=clear]")
    page.wait("S.drawing && S.look.assumed")
    x, y, width, height = page.run("(r => [r.left, r.top, r.width, r.height])($('.pad').getBoundingClientRect())")
    spots = [{"x": x + width / 2, "y": y + height * at} for at in (0.2, 0.4, 0.6, 0.8)]
    page.pointer("mouseMoved", spots[0])
    page.pointer("mousePressed", spots[0])
    for spot in spots[1:]:
        page.pointer("mouseMoved", {**spot, "held": True})
    page.pointer("mouseReleased", spots[-1])
    drawn = np.float32(page.wait("S.mine.length === 1 && S.list === 'mine' && S.mine[0].pixels")).reshape(1, 28, 28, 1)
    page.wait("S.sample === S.mine[0].sample && S.look.own && S.look.data.slice(0, 784).every((v, k) =>"
              " Math.abs(v * 255 - S.mine[0].pixels[k]) < 0.01)")  # fmt: skip
    probabilities = model.predict(drawn / 255, verbose=0)[0]
    shown = page.run("(e => [...S.look.data.slice(e.at, e.at + 10)])(S.look.columns[7].value)")
    np.testing.assert_allclose(shown, probabilities, rtol=1e-5, atol=1e-6)
    assert page.run("S.look.answer") == probabilities.argmax()
    page.click("[data-key=draw]")
    page.wait("!S.drawing")
    page.run("$('[data-key=stop8]').click()")  # backward
    assert page.wait("S.measured && S.explanation.what === 'doutput' && S.measured.verdict") in ("agrees", "kink")
    page.run("$('[data-key=stop5]').click()")
    page.wait("S.stop === 5 && S.explanation && $('.say').innerText.includes('nothing is dropped')")
    page.click("[data-key=list-test]")
    page.click("[data-key=thumb1]")
    page.wait("S.sample.index === 1 && !S.look.own && !S.look.assumed && $('#read').innerText.includes('test image')")
    page.run("(e => { e.value = 40; e.dispatchEvent(new Event('input')); })($('[data-key=slide-turn]'))")
    page.wait("S.look.own && S.look.truth === S.model.listed.items[1].truth")
    page.run("$('[data-key=slide-turn]').dispatchEvent(new Event('dblclick'))")
    page.wait("!S.look.own")
    page.run("$('[data-key=stop2]').click()")
    middle = "(r => ({ x: r.left + r.width / 2, y: r.top + r.height / 2 }))($('.lens canvas').getBoundingClientRect())"
    page.pointer("mouseMoved", page.run(middle))
    page.wait("S.hover && S.explanation && S.explanation.place.slice(1).join() === S.hover.place.join()")


def test_what_a_file_cannot_do_it_says(page, digits):
    model, _ = digits
    page.click("[data-key=tab-train]")
    page.wait("S.mode === 'train' && $('#inspector h1').innerText === 'How it was trained'")
    said = page.run("$('#inspector').innerText")
    assert "2 epochs" in said
    assert "nothing is trained here" in said
    assert page.run("$$('#inspector svg').map(e => e.getAttribute('aria-label'))") == [
        f"{name} of 2 epochs, at the end {model.history.history[name][-1]:.4f}" for name in ("loss", "accuracy")
    ]
    page.click("[data-key=tab-break]")
    page.wait("S.mode === 'break' && $('#inspector').innerText.includes('nothing can be broken here')")
    page.click("[data-key=tab-look]")
    page.wait("S.mode === 'look' && S.explanation")


@pytest.mark.long
@pytest.mark.parametrize(("width", "height", "touch"), [(360, 760, True), (3840, 2160, False)])
def test_it_fits(page, width, height, touch):
    page.size(width, height, touch)
    page.run("dispatchEvent(new Event('resize'))")
    for mode in ("train", "break", "look"):
        page.run("$(`[data-key=tab-${a}]`).click()", mode)
        page.wait("S.mode === a && $('#inspector h1')", mode)
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        assert page.run("$('#inspector').scrollWidth <= $('#inspector').clientWidth + 1")
    page.size(1440, 900)


def test_it_is_small_and_asks_nobody(page, written):
    text = written.read_text()
    assert len(text) < 1_000_000
    assert "default-src 'none'" in text
    assert not re.findall(r"(?:src|href)=.(?!data:)", text)
    assert page.run("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0


class Halved(tinyconv.Layer):
    def call(self, x):
        return x / 2

    def backward(self, dx, dweights, dout, x, out, weights):
        dx[...] = dout / 2


def test_a_layer_that_the_engine_does_not_know_is_named(browser, tmp_path):
    tinyconv.utils.set_random_seed(1)
    stack = [tinyconv.Input((6, 6)), layers.Flatten(), Halved(name="half"), layers.Dense(3, activation="softmax")]
    model = tinyconv.Sequential(stack)
    model.compile("rmsprop", "sparse_categorical_crossentropy", backend="reference")
    samples = np.random.default_rng(0).random((3, 6, 6), np.float32), np.array([0, 1, 2])
    opened(browser, model, samples, tmp_path)
    assert browser.run("$('.refusal').innerText").startswith("Nothing can be drawn or moved here")
    assert "Halved (“half”)" in browser.run("$('.refusal').innerText")
    assert browser.run("!$('[data-key=draw]') && !$('.slider')")
    browser.run("$('[data-key=stop1]').click()")
    said = browser.wait("S.explanation?.layer === 'half' && S.explanation.sentences[0]")
    assert said.startswith("This page's engine does not know Halved")
    browser.run("$('[data-key=stop5]').click()")
    assert "Halved" in browser.wait("S.explanation?.layer === 'flatten' && S.measured && S.measured.error")
    look, _ = looking_at(model, samples).looked(Request({"index": browser.run("S.model.numbers[0]")}))
    compared(asked(browser, "look", index=0), look)
    assert browser.complaints() == []


def test_without_samples_the_pad_opens(browser, tmp_path):
    model = tinyconv.Sequential([tinyconv.Input((6, 6)), layers.Flatten(), layers.Dense(3, activation="softmax")])
    forward_only = "S.drawing && S.explanation && S.look.loss === null && $$('.dots button').length === 2"
    opened(browser, model, (), tmp_path, forward_only)  # never compiled
    model.compile("adam", "sparse_categorical_crossentropy", backend="reference")
    loss = opened(browser, model, (), tmp_path, "S.drawing && S.look?.assumed && S.look.loss.value")
    assert loss == pytest.approx(np.log(3))
    browser.keys(*["ArrowRight"] * 5)
    browser.wait("S.explanation?.what === 'step'")
    assert browser.complaints() == []


STEPS = [
    ("Adam", {"weight_decay": 0.1, "global_clipnorm": 0.01}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("RMSprop", {"momentum": 0.5, "centered": True, "clipvalue": 0.001}),
    ("SGD", {}),
]


@pytest.mark.long
@pytest.mark.parametrize(("kind", "options"), STEPS)
def test_every_optimizers_step(browser, tmp_path, kind, options):
    tinyconv.utils.set_random_seed(1)
    optimizer = getattr(tinyconv.optimizers, kind)(0.01, **options)
    model = tinyconv.Sequential([tinyconv.Input((5,)), layers.Dense(4), layers.Dense(3, activation="softmax")])
    model.compile(optimizer, "sparse_categorical_crossentropy", backend="reference")
    samples = np.random.default_rng(0).random((3, 5), np.float32), np.array([0, 1, 2])
    model.train_on_batch(*samples)
    opened(browser, model, samples, tmp_path)
    look, _ = looking_at(model, samples).looked(Request({"index": browser.run("S.model.numbers[0]")}))
    found = asked(browser, "look", index=0)
    compared(found, look)
    explained(browser, look, found["look"], 2, ("step",))
    assert browser.complaints() == []


LOSSES = (
    *(f"{kind}cross_entropy" for kind in ("", "softmax_", "sigmoid_", "binary_")),
    *("mean_squared_error", "mean_absolute_error", "huber"),
)


def test_every_loss_and_activation(page):
    rng = np.random.default_rng(0)
    x, t = rng.random((2, 4)), rng.random((2, 4))
    for kind in LOSSES:
        options = {"delta": 0.3} if kind == "huber" else {}
        losses, slopes, probs = np.empty(2), np.empty((2, 4)), np.empty((2, 4))
        first = (losses, probs) if "softmax" in kind or "sigmoid" in kind else (losses,)
        getattr(reference, f"{kind}_forward")(*first, x, t, *options.values())
        getattr(reference, f"{kind}_backward")(slopes, probs if len(first) == 2 else x, t, *options.values())
        loss = {"kind": kind, "columns": 4, "options": options, "weight": 1, "summed": False}
        given = [loss, x.reshape(-1).tolist(), t.reshape(-1).tolist()]
        mine = page.run("import('losses').then(m => (g => [[...m.lossesOf(...g)], [...m.slopesOf(...g, 2)]])"
                        "([a[0], Float64Array.from(a[1]), Float64Array.from(a[2])]))", given)  # fmt: skip
        np.testing.assert_allclose(mine[0], losses, rtol=1e-12)
        np.testing.assert_allclose(np.reshape(mine[1], (2, 4)), slopes, rtol=1e-11)
    x = np.array([-7.0, -3.0, -1.2, -1e-3, 0.0, 0.3, 1.0, 2.9, 4.0, 30.0])
    options = {"bounded_relu": [0.2, 2.5, 0.1], "leaky_relu": [0.3], "elu": [0.3]}
    asked = [[kind, options.get(kind, [])] for kind in FORMULAS]
    mine = page.run(
        """import('curves').then(({ CURVES }) => a.map(([kind, o]) =>
        b.map(x => [CURVES[kind][0](x, ...o), CURVES[kind][1](x, CURVES[kind][0](x, ...o), ...o)])))""",
        asked,
        x.tolist(),
    )
    for found, (kind, given) in zip(mine, asked, strict=True):
        out = FORMULAS[kind][0](x, *given)
        theirs = [out, FORMULAS[kind][1](np.ones_like(x), x, out, *given)]
        np.testing.assert_allclose(np.array(found).T, theirs, rtol=1e-9, atol=1e-13, err_msg=kind)


@pytest.mark.long
def test_several_inputs_and_branches(browser, tmp_path):
    """Stored as trained, in a batch with others; what is drawn stands for the picture, beside the sample's facts."""
    model, samples = branches()
    opened(browser, model, samples, tmp_path, "S.explanation && S.look && !S.fresh")
    numbers = browser.run("S.model.numbers")
    looking = looking_at(model, samples)
    look, _ = looking.looked(Request({"index": numbers[1]}))
    found = asked(browser, "look", index=1)
    compared(found, look)
    explained(browser, look, found["look"], 1)
    same(asked(browser, "explain", look=found["look"]), plain(look.whole_loss()))
    drawn = np.random.default_rng(5).integers(0, 256, 64, np.uint8)
    found = asked(browser, "look", index=1, pixels=base64.b64encode(drawn.tobytes()).decode())
    low, high = browser.run("S.model.range")
    picture = (low + drawn.reshape(1, 8, 8, 1) / 255 * (high - low)).astype(np.float32)
    probabilities = model.predict([picture, samples[0][1][numbers[1] : numbers[1] + 1]], verbose=0)[0]
    at = found["columns"][-1]["value"]["at"]
    np.testing.assert_allclose(found["data"][at : at + 3], probabilities, rtol=1e-5)
    columns = browser.run("$$('.head').map(e => [e.dataset.n, e.closest('.lanes')?.dataset.col ?? e.style.gridColumn])")
    names = browser.run("S.model.columns.map(c => c.name)")
    assert columns[names.index("left")][1] == columns[names.index("right")][1]  # two rows of one place
    assert browser.run("$$('.wire').length") >= 4
    browser.run("$(`[data-key=col${a}]`).click()", names.index("right"))
    browser.wait("$('.lane.focus .lens') && S.explanation?.layer === 'right'")
    box = browser.run("(r => ({ x: r.left + 9, y: r.top + 9 }))($('.lane.focus .lens canvas').getBoundingClientRect())")
    browser.pointer("mouseMoved", box)
    browser.wait("S.hover && S.explanation?.place.slice(1).join() === S.hover.place.join()")
    browser.run("$(`[data-key=col${a}]`).click()", names.index("norm"))
    histogram = "$('.figure-of svg')?.getAttribute('aria-label').startsWith('histogram of channel 0, mean ')"
    browser.wait(f"S.explanation?.layer === 'norm' && {histogram}")
    browser.run("$(`[data-key=col${a}]`).click()", names.index("right"))
    browser.wait("$('.lane.focus .lens') && S.explanation?.layer === 'right'")
    over, below = browser.run("['.lanes.above', '.lanes.below'].map(s => $(s).getBoundingClientRect().bottom)")
    assert over <= browser.run("$('.band.below').getBoundingClientRect().top") + 4
    assert below <= browser.run("$('#net').getBoundingClientRect().bottom") + 4
    assert browser.complaints() == []
