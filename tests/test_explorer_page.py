"""The explorer's page, in a real browser: every control is used, every number compared with the library's."""

import time

import numpy as np
import pytest

import tinyconv
from tests.browser import Browser
from tinyconv import layers
from tinyconv.inspect.explorer import Explorer


def network():
    tinyconv.utils.set_random_seed(1)
    model = tinyconv.Sequential(
        [
            tinyconv.Input((28, 28, 1), name="picture"),
            layers.Conv2D(6, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", backend="reference", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def digits():
    _, (x, y) = tinyconv.datasets.mnist.load_data()
    return x[:60, ..., None].astype(np.float32) / 255, y[:60]


@pytest.fixture(scope="module")
def model(digits):
    model = network()
    for _ in range(4):
        model.train_on_batch(*digits)
    return model


@pytest.fixture(scope="module")
def explorer(model, digits):
    running = Explorer(model, *digits, train_data=digits)
    running._samples.wait()
    yield running
    running.close()


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def page(browser, explorer):
    """The page at 1440 x 900, on test image 3; what the console has to complain about fails the test."""
    browser.size(1440, 900)
    browser.open(f"{explorer.address}#sample=3&theme=light")
    browser.wait("S.explanation")
    yield browser
    assert browser.complaints() == []


LARGE = """(t => parseFloat(t.replace('−', '-')))($$('#inspector .big')[S.explanation.score ? 1 : 0].textContent)"""


def text(page, selector):
    return page.run("$(a).innerText", selector)


def at_rest(page):
    """Wait until the pictures below the network stay where they are: a click needs a place."""
    seen = []
    while len(seen) < 5 or len(set(seen[-5:])) > 1:
        seen.append(page.run("$$('#dock button').map(e => e.dataset.key + e.getBoundingClientRect().left).join()"))
        time.sleep(0.1)


def test_every_stop_shows_the_librarys_numbers(page, model, digits):
    """Walked with the arrow key: at each stop the chosen number, its explanation and its array are the trace's."""
    x, y = digits
    trace = model.trace(x[3:4], y[3:4])
    stops = page.run("$$('.dots button').length")
    assert stops == 7 + 1 + 7 + 1
    for stop in range(stops):
        page.wait(
            "S.stop === a && S.explanation && (S.explanation.loss || S.explanation.what !== 'doutput' || S.measured)",
            stop,
        )
        found = page.run("""({ ...S.pin, name: S.model.columns[S.pin.col].name, value: S.explanation.value,
            what: S.explanation.what, loss: !!S.explanation.loss, measured: S.measured })""")
        if found["loss"]:
            assert page.run("S.look.loss.value") == pytest.approx(trace.loss, rel=1e-6)
        elif found["what"] == "step":
            weight = trace.weights[f"{found['name']}/kernel"]
            assert found["value"] == pytest.approx(weight.step[tuple(found["place"])], rel=1e-5)
        else:
            expected = getattr(trace[found["name"]], found["what"])[(0, *found["place"])]
            assert found["value"] == pytest.approx(expected, rel=1e-5)
            if "×" not in text(page, "#inspector .figure"):  # no power of ten
                assert page.run(LARGE) == pytest.approx(expected, rel=1e-2, abs=1e-5)
        if found["measured"] and found["measured"]["verdict"] == "agrees":
            assert found["measured"]["slope"] == pytest.approx(found["value"], rel=1e-2, abs=1e-6)
        page.keys("ArrowRight")
    for number, name in enumerate(name for name in trace if name != "loss"):
        shown = page.run("(e => [...S.look.data.slice(e.at, e.at + 2000)])(S.look.columns[a].value)", number)
        np.testing.assert_array_equal(
            np.float32(shown)[: trace[name].output[0].size], trace[name].output[0].reshape(-1)[:2000]
        )


def test_pointing_explains_and_a_click_keeps(page):
    page.keys("ArrowRight", "ArrowRight")
    page.wait("S.stop === 2 && S.explanation")
    box = page.run(
        "(r => ({ x: r.left + r.width * 0.31, y: r.top + r.height * 0.4 }))($('.lens canvas').getBoundingClientRect())"
    )
    page.pointer("mouseMoved", box)
    place = page.wait(
        "S.hover && S.explanation && S.explanation.place.slice(1).join() === S.hover.place.join() && S.hover.place"
    )
    assert f"Row {place[0]}, column {place[1]}, map {place[2]}" in text(page, "#inspector h1")
    assert text(page, ".figure-of").startswith("relu: ")  # the curve, with the number on it
    assert page.run("$('.figure-of svg').getAttribute('aria-label')").startswith("relu, with the point ")
    assert page.run("$$('#over rect').length") > 8  # windows in the maps before, the receptive field in the picture
    page.click(".lens canvas")
    page.wait("S.pin && S.pin.kept && !S.hover")
    assert "pin=v,conv2d_1," in page.run("location.hash")
    kept = page.run("S.pin.place")
    page.keys("Shift+ArrowUp")
    assert page.wait("S.pin.place[0] === a - 1 && S.pin.place", kept[0])[1:] == kept[1:]
    channel = page.wait(
        'S.explanation && $(\'[data-key="chan+"]:not(:disabled), [data-key="chan-"]:not(:disabled)\') && S.open'
    )
    page.run('$(\'[data-key="chan+"]:not(:disabled), [data-key="chan-"]:not(:disabled)\').click()')
    assert page.run("S.open") != channel
    page.run("$('.matrix [data-k]').dispatchEvent(new PointerEvent('pointerenter'))")
    assert "×" in text(page, ".product")
    assert page.run("$$('.source .mark').length === 1 && $('math') !== null")
    page.click("[data-key=copy]")
    page.wait("['Copied', 'Selected'].includes($('[data-key=copy]').textContent)")
    page.keys("Escape", "Escape")
    page.wait("!S.pin && !location.hash.includes('pin=')")


def test_layers_maps_and_pages(page):
    page.click("[data-key=col1]")
    page.wait("S.focus === 1 && $('.head.focus b').textContent === 'conv2d'")
    page.click("[data-key='page1-2']")
    page.wait("!$$('.pages')[0].textContent.startsWith('0')")
    page.run("$('[data-key^=map1value]:last-of-type canvas').click()")
    assert page.wait("S.map > 0 && S.map")
    page.keys("PageUp")
    page.keys("[", "]")
    page.click("[data-key='page1-1']")
    page.wait("$$('.tiles button').length === 6")
    page.run("$$('.tiles button')[5].click()")
    page.wait("S.map === 5 && !$('.tiles')")
    page.run("$('[data-key=bar7value4]').click()")
    page.wait("S.pin.col === 7 && S.pin.place[0] === 4 && S.explanation && S.explanation.score")
    assert "Score and probability of 4" in text(page, "#inspector h1")


def test_pictures_sliders_and_drawing(page, model, digits):
    page.click("[data-key=list-test]")
    page.wait("S.list === 'test' && S.listed.total === 60 && $('[data-key=later]')")
    page.click("[data-key=later]")
    page.wait("S.from > 0")
    page.click("[data-key=earlier]")
    page.wait("S.from === 0 && S.listed.from === 0 && $('[data-key=thumb1]')")
    page.click("[data-key=thumb1]")
    page.wait("S.sample.index === 1 && location.hash.includes('sample=1') && S.look.truth === a", int(digits[1][1]))
    for name, value in (("across", 3), ("down", -2), ("turn", 20), ("blur", 0.8)):
        before = page.run("S.look.look")
        page.run(
            "(e => { e.value = b; e.dispatchEvent(new Event('input')); })($(`[data-key=slide-${a}]`))", name, value
        )
        page.wait("S.look.look > a && S.slide[b] !== 0", before, name)
    page.run("$('[data-key=slide-turn]').dispatchEvent(new Event('dblclick'))")
    page.wait("S.slide.turn === 0")
    page.click("[data-key=clear]")
    page.wait("S.drawing && S.look.assumed")
    box = page.run(
        "(r => ({ x: r.left, y: r.top, width: r.width, height: r.height }))($('canvas.pad').getBoundingClientRect())"
    )
    spots = [
        {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] * share} for share in (0.2, 0.4, 0.6, 0.8)
    ]
    page.pointer("mouseMoved", spots[0])
    page.pointer("mousePressed", spots[0])
    for spot in spots[1:]:
        page.pointer("mouseMoved", {**spot, "held": True})
    page.pointer("mouseReleased", spots[-1])
    drawn = page.wait("S.mine.length === 1 && S.list === 'mine' && S.mine[0].pixels")
    assert max(drawn) == 255
    assert 30 < sum(level > 0 for level in drawn) < 150
    x = np.float32(drawn).reshape(1, 28, 28, 1) / 255
    page.wait(
        "S.sample === S.mine[0].sample && S.look.data.slice(0, 784).every((v, k) => Math.abs(v * 255 - a[k]) < 0.01)",
        drawn,
    )
    assert page.run("S.look.answer") == int(model.predict(x, verbose=0).argmax())
    page.click("[data-key=draw]")
    page.wait("!S.drawing")
    page.run("""(async () => {
      const canvas = new OffscreenCanvas(50, 40), pen = canvas.getContext('2d');
      pen.fillStyle = '#fff'; pen.fillRect(0, 0, 50, 40); pen.fillStyle = '#000'; pen.fillRect(20, 5, 6, 30);
      const transfer = new DataTransfer();
      transfer.items.add(new File([await canvas.convertToBlob()], 'one.png', { type: 'image/png' }));
      dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, cancelable: true }));
    })()""")
    dropped = page.wait("S.mine.length === 2 && S.mine[0].pixels")
    assert dropped[0] == 0  # white paper has become black ground
    assert max(dropped) == 255


def test_themes_keys_and_the_address(page, explorer):
    page.keys("d")
    page.wait("document.documentElement.dataset.theme === 'dark' && location.hash.includes('theme=dark')")
    page.click("[data-key=theme]")
    page.wait("document.documentElement.dataset.theme === 'light'")
    page.keys("?")
    page.wait("$('#help').open && $$('#help dt').length > 5")
    page.run("$('#help form button').click()")
    page.wait("!$('#help').open")
    page.open(f"{explorer.address}#stop=12&sample=5&map=2&pin=g,max_pooling2d,4,5,2")
    page.wait("S.explanation && S.explanation.layer === 'max_pooling2d' && S.measured")
    assert page.run("S.explanation.place.join()") == "0,4,5,2"
    assert "measured, by nudging it" in text(page, "#inspector")
    assert page.run("$$('.equation .off').length") > 0
    assert "no gradient" in text(page, "#inspector")
    page.open(f"{explorer.address}#stop=-1&sample=x&map=1e9&pin=g,nope,4,99,a&focus=<b>&theme=no")
    page.wait("S.explanation && S.stop === 0")


def test_by_keyboard_alone(page):
    """Tab reaches the stops, every layer and every control, in their order; what has the focus shows it."""
    seen = []
    page.run("document.activeElement.blur()")
    for _ in range(90):
        page.keys("Tab")
        key = page.run("document.activeElement.dataset.key || document.activeElement.tagName")
        if key in seen[-30:] and key == seen[0]:
            break
        seen.append(key)
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid" or key in (
            "BODY",
            "HTML",
        ), key
    order = [seen.index(key) for key in ("keys", "stop0", "col0", "col7", "list-worst", "slide-blur")]
    assert order == sorted(order)
    page.run("$('[data-key=col2]').focus()")
    page.keys("Enter")
    page.wait("S.focus === 2 && document.activeElement.dataset.key === 'col2'")


def test_everything_has_a_name_and_text_can_be_read(page):
    nameless = page.run("""$$('button, input, select, [role], [tabindex="0"]').filter(e => e.checkVisibility())
        .filter(e => !e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby'))
        .filter(e => !e.textContent.trim() && !e.labels?.length).map(e => e.outerHTML.slice(0, 90))""")
    assert [each for each in nameless if 'role="row"' not in each and 'role="gridcell"' not in each] == []
    assert page.run("$('.lens[role=grid]').getAttribute('aria-label')").startswith("conv2d, map 0, values ")
    page.wait("/^Row \\d+, column \\d+, map 0: /.test($('#cell-value').textContent)")
    assert page.run("$('#said').textContent").startswith("Row ")
    for theme in ("light", "dark"):
        page.run("document.documentElement.dataset.theme = a", theme)
        low = page.run(r"""(() => {
          const parse = c => c.match(/[\d.]+/g).map(Number);
          const linear = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
          const light = rgb => [0.2126, 0.7152, 0.0722].reduce((sum, w, k) => sum + w * linear(rgb[k]), 0.05);
          const ground = e => {
            for (; e; e = e.parentElement) {
              const c = parse(getComputedStyle(e).backgroundColor);
              if (c.length < 4 || c[3] > 0) return c;
            }
            return [255, 255, 255];
          };
          const written = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
          return $$('p, h1, h2, b, span, td, th, code, output, kbd')
            .filter(e => e.checkVisibility() && written(e))
            .filter(e => !e.closest('.pale, .matrix, .unseen, .num, button:disabled'))
            .map(e => [light(parse(getComputedStyle(e).color)), light(ground(e)), e.textContent])
            .filter(([a, b]) => Math.max(a, b) / Math.min(a, b) < 4.5);
        })()""")
        assert low == [], theme


@pytest.mark.parametrize(
    ("width", "height", "touch"), [(360, 760, True), (1024, 700, False), (1440, 900, False), (3840, 2160, False)]
)
def test_it_fits(browser, explorer, width, height, touch):
    page = browser
    page.size(width, height, touch)
    page.open(f"{explorer.address}#stop=2&sample=3")
    page.wait("S.explanation && $('.lens canvas')")
    wide = page.run(
        "[document.documentElement.scrollWidth, innerWidth, $('#inspector').scrollWidth - $('#inspector').clientWidth]"
    )
    assert wide[0] <= wide[1]
    assert wide[2] <= 1
    lens = page.run("(r => [r.left, r.right, r.width])($('.lens canvas').getBoundingClientRect())")
    assert lens[0] >= 0
    assert lens[1] <= width
    assert lens[2] >= (120 if touch else 200)
    pin = page.run("(r => [r.left, r.right])($('#over').lastElementChild.getBoundingClientRect())")
    assert lens[0] - 6 <= pin[0]  # the outline lies on the number
    assert pin[1] <= lens[1] + 6
    assert page.run("$$('#bar .step').every(e => e.getBoundingClientRect().width >= a)", 44 if touch else 28)
    if touch:
        x, y, side = page.run("(r => [r.left, r.top, r.width])($('.lens canvas').getBoundingClientRect())")
        page.touch("touchStart", {"x": x + side * 0.2, "y": y + side * 0.2})
        page.touch("touchMove", {"x": x + side * 0.5, "y": y + side * 0.5})
        seen = page.wait("S.hover && $('.loupe .hot') && [$('.loupe .hot').innerText, S.hover.place.join()]")
        page.touch("touchEnd")  # lifting pins what was seen
        assert page.wait("!$('.loupe') && S.pin?.kept && !S.hover && S.pin.place.join()") == seen[1]
        value = page.wait("S.explanation?.place.slice(1).join() === a && [S.explanation.value]", seen[1])
        assert float(seen[0].replace("−.", "-0.")) == pytest.approx(value[0], abs=6e-3)
        page.click(".handle")
        page.wait("document.body.classList.contains('tall')")
        page.click(".handle")
        page.wait("!document.body.classList.contains('tall')")
        for to, tall in ((80, "true"), (700, "false")):  # dragged
            at = page.run("(r => ({ x: r.left + r.width / 2, y: r.top + 10 }))($('.handle').getBoundingClientRect())")
            page.pointer("mousePressed", at)
            for y in ((at["y"] + to) / 2, to):
                page.pointer("mouseMoved", {"x": at["x"], "y": y, "held": True})
            page.pointer("mouseReleased", {"x": at["x"], "y": to})
            page.wait(f"document.body.classList.contains('tall') === {tall}")
        page.run("$('[data-key=pictures]').click()")
        page.wait("getComputedStyle($('#dock')).display !== 'none'")
        page.run("$('#dock .lists > .button').click()")
        page.wait("getComputedStyle($('#dock')).display === 'none'")
        page.keys("b")
        page.wait("$('#net').dataset.band === 'below' && $('.head').checkVisibility()")
    assert page.complaints() == []


def test_a_tab_that_is_pressed_stays_until_it_is_let_go(page):
    """A list that comes meanwhile, and with it the accuracy in the head, would take the button away with its click."""
    at = page.run("(e => { window.tab = e; return e.getBoundingClientRect().toJSON(); })($('[data-key=tab-train]'))")
    at = {"x": at["x"] + 5, "y": at["y"] + 5}
    page.pointer("mouseMoved", at)
    page.pointer("mousePressed", at)
    page.run("(S.listed = null, S.from = 1, dispatchEvent(new Event('resize')))")
    assert page.wait("S.listed?.ready && [S.listed.accuracy]")[0] is not None
    assert page.run("window.tab === $('[data-key=tab-train]')")
    page.pointer("mouseReleased", at)
    page.wait("S.mode === 'train' && window.tab !== $('[data-key=tab-train]')")


def test_training_is_seen_and_looked_back_at(page, explorer):
    page.click("[data-key=tab-train]")
    page.wait("S.mode === 'train' && $('[data-key=go]')")
    page.click("[data-key=one]")
    page.wait("$('.say').innerText.startsWith('Step 1') && $('.say').innerText.includes('paused')")
    page.run("(e => { e.value = '16'; e.dispatchEvent(new Event('change')); })($('[data-key=batch]'))")
    page.run("(e => { e.value = 'sgd'; e.dispatchEvent(new Event('change')); })($('[data-key=optimizer]'))")
    page.run("(e => { e.value = '-40'; e.dispatchEvent(new Event('input')); })($('[data-key=rate]'))")
    page.keys("s")
    page.wait("$('.say').innerText.startsWith('Step 2')")
    learner = explorer._learner
    assert (learner.batch, learner.name, learner.rate) == (16, "sgd", 0.01)
    page.run("document.activeElement.blur()")
    page.keys(" ")
    page.wait("+$('.say b').textContent.split(' ')[1] > 12 && $$('.film button').length > 5")
    page.click("[data-key=go]")
    page.wait("$('[data-key=go]').textContent === 'Go on'")
    at_rest(page)
    page.click("[data-key=moment4]")
    page.wait("S.look.moment === 4 && $('.note').innerText.startsWith('You look back at step 4')")
    kernel = learner.weights_at(4)[0]
    assert page.run(
        "(e => [...S.look.data.slice(e.at, e.at + 54)])(S.look.columns[1]['weight/kernel'])"
    ) == pytest.approx(kernel.reshape(-1).tolist(), rel=1e-6)
    assert page.run("$$('.film .later').length") > 0
    page.keys(",")
    page.wait("S.look.moment === 2")
    page.run("(e => { e.value = e.max; e.dispatchEvent(new Event('input')); })($('[data-key=time]'))")
    page.wait("!$('.note')")
    page.click("[data-key=moment1]")
    page.click("[data-key=now]")
    page.wait("!$('.note') && S.look.moment === null")
    page.click("[data-key=tab-look]")
    page.wait(
        "S.mode === 'look' && S.explanation && S.model.step === a && S.look.loss", learner.model.optimizer.iterations
    )
    page.click("[data-key=tab-train]")
    page.click("[data-key=over]")
    page.wait("$('.say').innerText.startsWith('Step 0')")


def test_breaking_it_names_the_tensor(page, explorer):
    explorer._breaker.steps = 4
    page.click("[data-key=tab-break]")
    page.wait("$$('.switch').length === 10 && $('[data-key=break-turn]:enabled')")
    page.click("[data-key=break-turn]")
    page.wait("$('.breaks .on').innerText.includes('✗ max_pooling2d')")
    page.wait("S.look.columns[2].gradient && !document.body.classList.contains('stale')")
    heads = "$$('.head').map(e => [e.querySelector('b').textContent, e.querySelector('span').innerText])"
    verdicts = dict(page.run(heads))
    assert verdicts["max_pooling2d"] == "✗ from here"
    assert verdicts["conv2d"] == "✗ wrong"
    assert verdicts["conv2d_1"] == verdicts["dense"] == "✓ agrees"
    assert page.run("$$('.source .minus').length") == 1
    assert "is the first that is wrong" in text(page, "#inspector")
    page.wait("$$('#dock .chart path').length === 2")
    sizes = {}
    for kind in ("without", "difference", "with"):
        page.click(f"[data-key=show-{kind}]")
        page.wait("$(a).classList.contains('on')", f"[data-key=show-{kind}]")
        sizes[kind] = page.run("S.look.columns.map(c => c.gradient.max - c.gradient.min)")
    assert sizes["difference"][2] > 0
    assert sizes["difference"][3:] == [0.0] * 5  # behind the mistake nothing differs
    assert sizes["with"][3:] == sizes["without"][3:]
    page.run("$('.lens canvas').click()")
    page.wait("S.pin && S.pin.kept && S.explanation && $('#inspector .figure')")
    page.keys("Escape")
    page.wait("$$('.switch').length === 10")
    page.click("[data-key=break-rate]")
    page.wait("$('.breaks .on').innerText.includes('nothing')")
    page.click("[data-key=break-rate]")
    page.wait("!$('.breaks .on .switch')")


def test_what_is_no_number_is_shown_and_named(browser, model, digits):
    spoilt = network()
    weights = spoilt.get_weights()
    weights[2][0, 0, 0, 1] = np.nan
    spoilt.set_weights(weights)
    running = Explorer(spoilt, *digits)
    try:
        browser.size(1440, 900)
        browser.open(f"{running.address}#sample=3&stop=2&map=1")
        browser.wait("S.explanation && S.explanation.layer === 'conv2d_1' && Number.isNaN(S.explanation.value)")
        assert "first NaN: conv2d_1, kernel" in text(browser, ".band.above p")
        assert "NaN" in text(browser, "#net .bad")
        for _ in range(12):
            browser.keys("ArrowRight")
        browser.wait("S.stop === 14 && S.explanation && S.measured")
        assert "no finite number" in text(browser, "#inspector") or "NaN" in text(browser, "#inspector")
        assert browser.complaints() == []
    finally:
        running.close()


def test_the_last_state_stays_when_the_program_ends(browser, model, digits):
    running = Explorer(model, *digits)
    browser.size(1440, 900)
    browser.open(running.address)
    browser.wait("S.explanation")
    running.close()
    browser.keys("ArrowRight")
    browser.wait("!$('#notice').hidden && $('#notice').textContent.startsWith('The program ended')")
    assert browser.run("$$('.strip canvas').length") > 10
    assert all("ERR_CONNECTION_REFUSED" in each for each in browser.complaints())
