"""Chromium without a window, by the DevTools protocol, and what every page here has to be."""

import base64
import contextlib
import json
import shutil
import subprocess
import time

from websockets.sync.client import connect

PATIENCE = 25
DESKTOP = {"width": 1280, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}

# Texts whose contrast with what is behind them is below WCAG 2.2's 4.5 (1.4.3), and what reaches
# beyond the right edge.
LOOKS = """(() => {
  const light = (css) => {
    const part = css.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)" && color !== "transparent") return color;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [], wide = [];
  for (const node of document.body.querySelectorAll("*")) {
    const box = node.getBoundingClientRect();
    const name = `${node.tagName} ${node.id} ${node.textContent.trim().slice(0, 30)}`;
    const edge = innerWidth - parseFloat(getComputedStyle(document.querySelector("main")).paddingRight);
    if (box.width > 0 && box.right > (node.closest("main > *") ? edge : innerWidth) + 0.5) wide.push(name);
    const has = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!has || box.width === 0 || node.disabled || node.closest("svg")) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(`${name}: ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
  }
  return { faint, wide, scroll: document.documentElement.scrollWidth, width: innerWidth };
})()"""


class Browser:
    """Chromium and one page of it."""

    def __init__(self, program, directory):
        profile = directory / "profile"
        shutil.rmtree(profile, ignore_errors=True)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
        flags += ["--disable-extensions", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        log = open(directory / "chromium.log", "wb")
        self.process = subprocess.Popen([program, *flags, "about:blank"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        port = profile / "DevToolsActivePort"
        wait("Chromium", lambda: port.exists() and len(port.read_text().splitlines()) == 2)
        number, path = port.read_text().splitlines()
        self.open = contextlib.ExitStack()
        tools = connect(f"ws://127.0.0.1:{number}{path}", max_size=None, compression=None, ping_interval=None)
        self.socket = self.open.enter_context(tools)
        self.next, self.session, self.events = 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Network", "Log", "Accessibility"]:
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self.next += 1
        message = {"id": self.next, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv(timeout=PATIENCE))
            if answer.get("id") == self.next:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            if "method" in answer:
                self.events.append((answer["method"], answer["params"]))

    def value(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"]["value"]

    def look(self, size, scheme, motion="no-preference"):
        self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [("prefers-color-scheme", scheme), ("prefers-reduced-motion", motion)]
        self.call("Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in features])

    def picture(self, path, whole=True):
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def click(self, selector):
        place = f"document.querySelector('{selector}')"
        self.value(f"{place}.scrollIntoView({{ block: 'center' }})")
        x, y = self.value(f"(() => {{ const b = {place}.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()")
        for kind in ["mousePressed", "mouseReleased"]:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def go(self, url):
        """Opens a page; what the one before said and asked for is forgotten."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        wait("the page", lambda: self.value(f"document.readyState === 'complete' && location.href === {json.dumps(url)}"))

    def complaints(self):
        """What it has complained of so far."""
        said = []
        for method, params in self.events:
            if method == "Runtime.exceptionThrown":
                said.append(params["exceptionDetails"])
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                said.append(params["args"])
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                said.append(params["entry"])
        return said

    def addresses(self):
        """Every address it has asked for."""
        found = [p["request"]["url"] for m, p in self.events if m == "Network.requestWillBeSent"]
        return found + [p["url"] for m, p in self.events if m == "Network.webSocketCreated"]


    def keeps_to(self, host):
        """It has asked nobody else for anything."""
        asked = self.addresses()
        assert asked, "it has asked for nothing"
        for address in asked:
            assert address.startswith((f"http://{host}/", f"ws://{host}/", "about:")), f"asked for {address}"
        return asked

    def names(self):
        """What somebody who does not see the page is told is there."""
        tree = self.call("Accessibility.getFullAXTree")["nodes"]
        names = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]}
        for role, name in names:
            assert name or role not in ("button", "textbox", "image", "Canvas", "progressbar"), f"a {role} without a name"
        return names


def wait(what, condition):
    """The condition's first true value."""
    until = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.02)
    return value


def good_looks(browser, width):
    looks = browser.value(LOOKS)
    assert not looks["faint"], f"too little contrast: {looks['faint']}"
    assert looks["width"] == width and looks["scroll"] <= width and not looks["wide"], f"too wide: {looks}"
