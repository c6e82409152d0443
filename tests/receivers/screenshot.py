"""Pictures a trace in Phoenix's UI with a headless Chromium, driven over its DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request

from websockets.sync.client import connect

from processes import Failure, wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1440, 1000
START_TIMEOUT = 60
PAGE_TIMEOUT = 30
STOP_TIMEOUT = 10
# So long the page must look the same before it is pictured.
SETTLED = 2
# A screenshot of a long page is one message.
MESSAGE_MAX = 64 << 20

# Elements of Phoenix's UI: the bars of spans in the tree, and what can be dragged to make the tree wider, which is the
# first right of a span's name.
BARS = "document.querySelectorAll('.span-tree-timing').length"
SEPARATOR = """(() => {
    const name = document.querySelector('.span-node__heading').getBoundingClientRect()
    const all = [...document.querySelectorAll('[role=separator]')].map(one => one.getBoundingClientRect())
    const right = all.map(one => [one.x + one.width / 2, one.y + one.height / 2]).filter(one => one[0] > name.x)
    return JSON.stringify(right.sort((one, other) => one[0] - other[0])[0])
})()"""


def take(url, path, tree_width=280):
    """Saves a PNG of the trace at `url`, with the tree of spans wider by so many pixels."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise Failure("there is no chromium; install it (apt-get install chromium)")
    with tempfile.TemporaryDirectory(prefix="spanring-chromium-") as profile:
        browser = subprocess.Popen(
            [
                program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--no-first-run", "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={profile}", "--remote-debugging-port=0",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port_file = os.path.join(profile, "DevToolsActivePort")
            wait_until("chromium starts", lambda: os.path.exists(port_file) and port_of(port_file), START_TIMEOUT)
            with Page(port_of(port_file)) as page:
                picture = page.trace(url, tree_width)
            with open(path, "wb") as file:
                file.write(picture)
        finally:
            browser.terminate()
            try:
                browser.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                browser.kill()
                browser.wait()


def port_of(path):
    """The port that Chromium wrote down, or None while it has not."""
    with open(path, encoding="ascii") as file:
        lines = file.read().split("\n")
    return int(lines[0]) if len(lines) > 1 else None


class Page:
    """A page of the browser."""

    def __init__(self, port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PAGE_TIMEOUT) as answer:
            target = next(one for one in json.load(answer) if one["type"] == "page")
        self.socket = connect(target["webSocketDebuggerUrl"], max_size=MESSAGE_MAX)
        self.number = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def call(self, method, **parameters):
        """The result of a command."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(PAGE_TIMEOUT))
            if message.get("id") == self.number:
                if "error" in message:
                    raise Failure(f"chromium, {method}: {message['error']}")
                return message["result"]

    def value(self, expression):
        """The value of an expression in JavaScript."""
        return self.call("Runtime.evaluate", expression=expression)["result"].get("value")

    def mouse(self, kind, x, y, buttons):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1)

    def settled(self):
        """The picture, once it does not change any more."""
        last, since = None, time.monotonic()
        deadline = since + PAGE_TIMEOUT
        while time.monotonic() < deadline:
            picture = self.call("Page.captureScreenshot", format="png")["data"]
            if picture != last:
                last, since = picture, time.monotonic()
            elif time.monotonic() - since > SETTLED:
                break
            time.sleep(0.2)
        return base64.b64decode(last)

    def trace(self, url, tree_width):
        """A picture of the trace at `url`."""
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=url)
        wait_until("Phoenix shows the spans", lambda: self.value(BARS), PAGE_TIMEOUT)
        self.settled()
        x, y = json.loads(self.value(SEPARATOR))
        self.mouse("mouseMoved", x, y, 0)
        self.mouse("mousePressed", x, y, 1)
        self.mouse("mouseMoved", x + tree_width / 2, y, 1)
        self.mouse("mouseMoved", x + tree_width, y, 1)
        self.mouse("mouseReleased", x + tree_width, y, 0)
        return self.settled()
