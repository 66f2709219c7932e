"""The demo's live page in headless Chromium, by the DevTools protocol.

usage: demo_page.py DEMO CHROMIUM DIRECTORY [ARGUMENT OF THE DEMO...]

Starts the demo, looks at its page on a desktop and on a phone, light and dark, publishes from it,
kills the server under it. Leaves screenshots in DIRECTORY. Prints one line and exits 0 when all
was as it should be.
"""

import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

CONNECTIONS = 3000
# Echoes a second while it holds.
RATE = 300
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

FIGURES = """(() => {
  const text = (id) => document.getElementById(id).textContent;
  const data = document.getElementById("outcome").dataset;
  return {
    link: document.body.dataset.link, said: text("link"), phase: text("phase"),
    connections: text("connections"), messages: text("messages"), p50: text("p50"),
    bytes: text("bytes"), wrong: text("wrong-sum"), outcome: text("outcome"),
    shards: [...document.querySelectorAll("#shards .said")].map((node) => node.textContent),
    id: Number(data.id ?? 0), state: data.state, delivered: Number(data.delivered), heard: Number(data.heard),
    images: document.images.length, enabled: !document.getElementById("send").disabled,
  };
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

    def figures(self):
        return self.value(FIGURES)

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


def wait(what, condition):
    """The condition's first true value."""
    until = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.02)
    return value


def number(text):
    return int(text.replace(",", ""))


def tick(url):
    """A look of the server's, from a page socket of our own; and the one after it."""
    host = url.removeprefix("http://").rstrip("/")
    with connect(f"ws://{host}/live", origin=f"http://{host}", compression=None) as socket:
        hello = json.loads(socket.recv(timeout=PATIENCE))
        assert hello["is"] == "hello", hello
        while (message := json.loads(socket.recv(timeout=PATIENCE)))["is"] != "tick":
            pass
        return message["value"]


def strangers_stay_out(url):
    """Another site's page, or a name that leads here, gets no socket."""
    host = url.removeprefix("http://").rstrip("/")
    for origin, status in [("http://example.com", 403), (None, 403), ("http://localhost:1", 403)]:
        try:
            with connect(f"ws://{host}/live", origin=origin):
                raise AssertionError(f"the origin {origin} got a socket")
        except InvalidStatus as refused:
            assert refused.response.status_code == status, (origin, refused)


def good_looks(browser, width):
    looks = browser.value(LOOKS)
    assert not looks["faint"], f"too little contrast: {looks['faint']}"
    assert looks["width"] == width and looks["scroll"] <= width and not looks["wide"], f"too wide: {looks}"


def publish(browser, text):
    """Types a text, presses the button, and sees that all connections got it."""
    before = browser.figures()["id"]
    time.sleep(1.2)  # The server takes one broadcast a second.
    wait("the button", lambda: browser.figures()["enabled"])
    browser.value(f"document.getElementById('text').value = {json.dumps(text)}")
    browser.click("#send")
    said = wait("the broadcast's outcome", lambda: (f := browser.figures())["id"] > before and f["state"] == "done"
                and f["heard"] >= CONNECTIONS and f)
    assert (said["delivered"], said["heard"]) == (CONNECTIONS, CONNECTIONS), said
    assert text in said["outcome"] and f"{CONNECTIONS:,} of {CONNECTIONS:,}" in said["outcome"], said
    assert said["images"] == 0, "a text became part of the page"


def see(browser, url, directory):
    host = url.removeprefix("http://").rstrip("/")
    browser.look(DESKTOP, "light")
    browser.call("Page.navigate", url=url)
    wait("the page", lambda: browser.value("document.readyState === 'complete' && location.href !== 'about:blank'"))
    seen = []

    def holding():
        seen.append(browser.figures())
        if seen[-1]["phase"].startswith("Opening") and number(seen[-1]["connections"]) > CONNECTIONS // 3:
            if not (directory / "opening.png").exists():
                browser.picture(directory / "opening.png", whole=False)
        return seen[-1]["phase"].startswith("Holding")

    wait("all to be open", lambda: holding() or number(seen[-1]["connections"]) == CONNECTIONS)
    good_looks(browser, 1280)
    browser.look(DESKTOP, "dark")
    time.sleep(0.1)
    good_looks(browser, 1280)
    browser.picture(directory / "desktop-dark.png")
    for scheme in ["dark", "light"]:
        browser.look(PHONE, scheme)
        time.sleep(0.2)
        good_looks(browser, 390)
        browser.picture(directory / f"phone-{scheme}.png")
    browser.look(DESKTOP, "light")
    wait("the run to hold", holding)
    rising = {figures["connections"] for figures in seen}
    assert len(rising) > 2 and any(figures["phase"].startswith("Opening") for figures in seen), rising

    # What it shows is what the server says.
    true = tick(url)
    assert true["connections"] == CONNECTIONS == sum(shard["connections"] for shard in true["shards"]), true
    assert true["phase"] == "holding" and true["client"]["opened"] == CONNECTIONS, true
    shown = wait("echoes", lambda: (f := browser.figures())["p50"] != "–" and number(f["messages"]) > 0 and f)
    assert number(shown["connections"]) == CONNECTIONS, shown
    in_bars = [number(re.match("[0-9,]+", text)[0]) for text in shown["shards"]]
    assert in_bars == [shard["connections"] for shard in true["shards"]], (shown, true)
    assert shown["wrong"] == "nothing" and shown["bytes"].endswith(" B"), shown
    assert shown["link"] == "live" and shown["said"] == "Live", shown
    wait("figures to change", lambda: browser.figures()["messages"] != shown["messages"])
    browser.picture(directory / "desktop-light.png")
    publish(browser, "<img src=x onerror=alert(1)> to all")
    browser.picture(directory / "broadcast.png", whole=False)

    browser.look(PHONE, "light", "reduce")
    publish(browser, "hello, all of you")

    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    names = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]}
    for wanted in [("button", "Broadcast"), ("textbox", "Say something to all of them"), ("heading", "Open WebSockets")]:
        assert wanted in names, f"no {wanted} in {sorted(names)}"
    for role, name in names:
        assert name or role not in ("button", "textbox", "image", "Canvas", "progressbar"), f"a {role} without a name"

    assert not browser.complaints(), browser.complaints()
    asked = browser.addresses()
    for address in asked:
        assert address.startswith((f"http://{host}/", f"ws://{host}/", "about:")), f"asked for {address}"
    assert f"ws://{host}/live" in asked, asked


def killed(browser, demo, directory):
    """The server's process, or the demo where that is all one, dies under the page."""
    children = pathlib.Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    os.kill(int(children[0]) if children else demo.pid, signal.SIGKILL)
    said = wait("the page to be disconnected", lambda: (f := browser.figures())["link"] == "lost" and f)
    assert said["said"].startswith("Disconnected since ") and not said["enabled"], said
    time.sleep(0.4)
    browser.picture(directory / "disconnected.png")
    return "the server's process" if children else "the demo"


def holding(program):
    """Two small runs that end while the page is looked at: by Enter, and by Ctrl-C, as a terminal sends it."""
    arguments = [program, "--memory", "--connections", "10", "--seconds", "0", "--page", "off", "--hold", "--json"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    by_enter, by_signal = [subprocess.Popen(arguments, **pipes) for _ in range(2)]
    by_enter.stdin.write("\n")
    by_enter.stdin.flush()
    return by_enter, by_signal


def ended(by_enter, by_signal):
    """Both end in order, with everything closed."""
    assert any(line.startswith("holding:") for line in iter(by_signal.stdout.readline, ""))
    os.killpg(by_signal.pid, signal.SIGINT)
    for run in (by_enter, by_signal):
        said = run.communicate(timeout=PATIENCE)[0]
        assert run.returncode == 0, f"{run.returncode}: {said}"
        summary = json.loads(said.splitlines()[-1])
        assert (summary["opened"], summary["errors"]) == (10, 0), summary


def main():
    program, chromium, directory, *more = sys.argv[1:]
    directory = pathlib.Path(directory)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    arguments = [program, "--connections", str(CONNECTIONS), "--open-rate", "2500", "--rate", str(RATE)]
    arguments += ["--seconds", "0", "--page", "127.0.0.1:0", "--hold", *more]
    browser = demo = None
    held = holding(program)
    try:
        browser = Browser(chromium, directory)
        log = open(directory / "demo.log", "wb")
        demo = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.PIPE, text=True)
        lines = iter(demo.stdout.readline, "")
        url = next((line.split()[1] for line in lines if line.startswith("page: http")), None)
        assert url, "the demo does not say where its page is"
        begin = time.monotonic()
        see(browser, url, directory)
        strangers_stay_out(url)
        who = killed(browser, demo, directory)
        ended(*held)
        print(f"seen, used and cut off by killing {who}, in {time.monotonic() - begin:.1f} s; pictures in {directory}")
    finally:
        for process in [*held, demo, browser and browser.process]:
            if process:
                process.kill()
                process.wait()


main()
