"""The demo's live page: on a desktop and on a phone, light and dark; publishes from it, and kills the
server under it. See pages.py.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import time

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from browser import DESKTOP, PATIENCE, PHONE, good_looks, wait

CONNECTIONS = 3000
# Echoes a second while it holds.
RATE = 300

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


def figures(browser):
    return browser.value(FIGURES)


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


def publish(browser, text):
    """Types a text, presses the button, and sees that all connections got it."""
    before = figures(browser)["id"]
    time.sleep(1.2)  # The server takes one broadcast a second.
    wait("the button", lambda: figures(browser)["enabled"])
    browser.value(f"document.getElementById('text').value = {json.dumps(text)}")
    browser.click("#send")
    said = wait("the broadcast's outcome", lambda: (f := figures(browser))["id"] > before and f["state"] == "done"
                and f["heard"] >= CONNECTIONS and f)
    assert (said["delivered"], said["heard"]) == (CONNECTIONS, CONNECTIONS), said
    assert text in said["outcome"] and f"{CONNECTIONS:,} of {CONNECTIONS:,}" in said["outcome"], said
    assert said["images"] == 0, "a text became part of the page"


def see(browser, url, directory):
    host = url.removeprefix("http://").rstrip("/")
    browser.look(DESKTOP, "light")
    browser.go(url)
    seen = []

    def holding():
        seen.append(figures(browser))
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
    shown = wait("echoes", lambda: (f := figures(browser))["p50"] != "–" and number(f["messages"]) > 0 and f)
    assert number(shown["connections"]) == CONNECTIONS, shown
    in_bars = [number(re.match("[0-9,]+", text)[0]) for text in shown["shards"]]
    assert in_bars == [shard["connections"] for shard in true["shards"]], (shown, true)
    assert shown["wrong"] == "nothing" and shown["bytes"].endswith(" B"), shown
    assert shown["link"] == "live" and shown["said"] == "Live", shown
    wait("figures to change", lambda: figures(browser)["messages"] != shown["messages"])
    browser.picture(directory / "desktop-light.png")
    publish(browser, "<img src=x onerror=alert(1)> to all")
    browser.picture(directory / "broadcast.png", whole=False)

    browser.look(PHONE, "light", "reduce")
    publish(browser, "hello, all of you")

    names = browser.names()
    for wanted in [("button", "Broadcast"), ("textbox", "Say something to all of them"), ("heading", "Open WebSockets")]:
        assert wanted in names, f"no {wanted} in {sorted(names)}"

    assert not browser.complaints(), browser.complaints()
    asked = browser.keeps_to(host)
    assert f"ws://{host}/live" in asked, asked


def killed(browser, demo, directory):
    """The server's process, or the demo where that is all one, dies under the page."""
    children = pathlib.Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    os.kill(int(children[0]) if children else demo.pid, signal.SIGKILL)
    said = wait("the page to be disconnected", lambda: (f := figures(browser))["link"] == "lost" and f)
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


def run(browser, program, directory, more):
    """Starts the demo, uses its page, and ends it. Returns a line about it."""
    arguments = [program, "--connections", str(CONNECTIONS), "--open-rate", "2500", "--rate", str(RATE)]
    arguments += ["--seconds", "0", "--page", "127.0.0.1:0", "--hold", *more]
    held = holding(program)
    demo = None
    try:
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
        return f"the demo's seen, used and cut off by killing {who}, in {time.monotonic() - begin:.1f} s"
    finally:
        for process in [*held, demo]:
            if process:
                process.kill()
                process.wait()
