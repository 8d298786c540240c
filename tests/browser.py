"""A real browser for tests of pages: Debian's chromium and chromium-driver, by way of selenium."""

import shutil
import time

import pytest

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))


class Browser:
    """A page in a window of a given size, in which JavaScript says what is on it."""

    def __init__(self):
        webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install -e '.[browser]'")
        if not (CHROMIUM and DRIVER):
            pytest.skip("needs a browser: apt-get install chromium chromium-driver")
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-dev-shm-usage",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.driver.set_script_timeout(120)

    def size(self, width, height, touch=False):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def offline(self):
        """From now on no network is there."""
        self.driver.execute_cdp_cmd("Network.enable", {})
        off = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", off)

    def open(self, address):
        self.driver.get("about:blank")
        self.complaints()  # those of the page before are not this one's
        self.driver.get(address)
        self.wait("document.body.dataset.ready && !document.body.classList.contains('stale')")

    def run(self, script, *arguments):
        """The value of an expression, in which S is the page's state and $ finds an element."""
        code = f"""
const done = arguments[arguments.length - 1], [a, b] = arguments;
const $ = s => document.querySelector(s), $$ = s => [...document.querySelectorAll(s)];
const state = $("script[type=importmap]") ? "state" : new URL("state.js", location.href.split("#")[0]).href;
import(state).then(({{ S }}) => ({script}))
  .then(value => done({{ value }}), error => done({{ error: String(error) }}));
"""
        found = self.driver.execute_async_script(code, *arguments)
        assert "error" not in found, (script, found)
        return found.get("value")

    def wait(self, condition, *arguments, seconds=120):
        """Until an expression holds; its value."""
        end = time.monotonic() + seconds
        while not (value := self.run(condition, *arguments)):
            assert time.monotonic() < end, f"never: {condition}; {self.complaints()}"
            time.sleep(0.02)
        return value

    def click(self, selector):
        """With the pointer, where the element lies: what covers it, or a disabled one, would be found out."""
        self.run("$(a)?.scrollIntoView({ block: 'nearest' })", selector)
        box = self.wait("$(a) && !$(a).disabled && (e => ({ x: e.left + e.width / 2, y: e.top + e.height / 2 }))"
                        "($(a).getBoundingClientRect())", selector)  # fmt: skip
        self.pointer("mouseMoved", box)
        self.pointer("mousePressed", box)
        self.pointer("mouseReleased", box)

    def pointer(self, kind, at):
        pressed = {} if kind == "mouseMoved" and not at.get("held") else {"button": "left", "clickCount": 1}
        event = {"type": kind, "x": at["x"], "y": at["y"], "buttons": 1 if pressed else 0, **pressed}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def touch(self, kind, *at):
        """A finger: touchStart and touchMove at places, touchEnd."""
        points = [{"x": each["x"], "y": each["y"]} for each in at]
        self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def keys(self, *names):
        """Keys as a keyboard sends them: "ArrowRight", "Shift+ArrowDown", "?"."""
        for name in names:
            *held, key = name.split("+") if len(name) > 1 else (name,)
            event = {"key": key, "code": key, "modifiers": 8 if held else 0}
            codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
            if key in codes:
                event |= {"windowsVirtualKeyCode": codes[key]}
            text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
            for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
                self.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": kind, **event, **text})

    def complaints(self):
        """What the console says of the page, errors and warnings."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def close(self):
        self.driver.quit()
