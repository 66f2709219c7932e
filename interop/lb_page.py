"""The operator's page of throng-lb, on a desktop and on a phone, with two servers behind it and a client
that asks on and on: what it shows, and that its buttons do what they say. See pages.py.
"""

import http.client
import http.server
import itertools
import json
import socket
import subprocess
import threading
import time

from browser import DESKTOP, PHONE, good_looks, wait

TOKEN = "of-the-page's-test-0123456789"

ROWS = """[...document.querySelectorAll(".server")].map((row) => {
  const text = (part) => row.querySelector(part).textContent;
  return { address: text(".address"), state: text(".state"), rate: parseFloat(text(".rate")) || 0, p50: text(".p50"),
           button: text("button"), enabled: !row.querySelector("button").disabled };
})"""


class Server(http.server.ThreadingHTTPServer):
    """Counts what it is asked."""

    daemon_threads = True

    def __init__(self):
        outer = self
        self.asked = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in one segment: nobody's acknowledgement is waited for.
            wbufsize = -1

            def do_GET(self):
                outer.asked += 1
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self.server_address[1]}"


class Client:
    """Asks the balancer again and again."""

    def __init__(self, port):
        self.port, self.stop, self.answers, self.wrong = port, False, 0, []
        self.thread = threading.Thread(target=self.ask, daemon=True)
        self.thread.start()

    def ask(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self.stop:
            connection.request("GET", "/")
            answer = connection.getresponse()
            if (answer.status, answer.read()) != (200, b"ok"):
                self.wrong.append(answer.status)
            self.answers += 1
            time.sleep(0.002)

    def more(self, count=100):
        """Waits until so many more requests are answered."""
        until = self.answers + count
        wait("more answers", lambda: self.answers >= until or not self.thread.is_alive())
        assert self.thread.is_alive() and not self.wrong, self.wrong


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def fetch(port, method, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer


def type_token(browser, text):
    browser.value("document.getElementById('token').value = ''")
    browser.click("#token")
    browser.call("Input.insertText", text=text)


def press(browser, address):
    rows = browser.value(ROWS)
    at = [row["address"] for row in rows].index(address)
    browser.click(f".server:nth-of-type({at + 1}) button")


def strangers_stay_out(port, server):
    """Whoever comes by another name or from another site's page changes nothing, token or not."""
    drain = f"/drain?upstream=app&server={server}"
    token = {"Authorization": f"Bearer {TOKEN}"}
    assert fetch(port, "GET", "/state.json", Host="example.com")[0] == 421
    assert fetch(port, "POST", drain, Host="example.com", **token)[0] == 421
    for origin in ["http://example.com", "http://localhost:1", f"https://127.0.0.1:{port}", "null"]:
        assert fetch(port, "POST", drain, Origin=origin, **token)[0] == 403, origin
    assert fetch(port, "POST", drain)[0] == 401
    assert fetch(port, "GET", drain, **token)[0] == 405
    assert "default-src 'none'" in fetch(port, "GET", "/")[2].headers["content-security-policy"]


def see(browser, directory, admin, servers, client):
    host = f"127.0.0.1:{admin}"
    kept, drained = servers
    row = lambda server: next(row for row in browser.value(ROWS) if row["address"] == server.address)
    browser.look(DESKTOP, "light")
    browser.go(f"http://{host}/")
    wait("figures", lambda: len(rows := browser.value(ROWS)) == 2 and all(row["rate"] > 0 and row["p50"] != "–" for row in rows))
    assert all(row["state"] == "in use" and not row["enabled"] for row in browser.value(ROWS)), browser.value(ROWS)
    assert browser.value("document.body.dataset.link") == "live"

    # With a wrong token nothing changes.
    type_token(browser, TOKEN[:-1])
    wait("the buttons", lambda: all(row["enabled"] for row in browser.value(ROWS)))
    press(browser, drained.address)
    wait("the refusal", lambda: browser.value("document.getElementById('outcome').textContent") == "That is not the token.")
    before = drained.asked
    client.more()
    assert drained.asked > before + 20 and row(drained)["state"] == "in use"

    # A drained server gets no request any more.
    type_token(browser, TOKEN)
    press(browser, drained.address)
    wait("it to be drained", lambda: row(drained)["state"] == "drained")
    client.more(10)
    counts = drained.asked, kept.asked
    client.more()
    assert drained.asked == counts[0] and kept.asked >= counts[1] + 100, (counts, drained.asked, kept.asked)
    wait("its rate to fall", lambda: row(drained)["rate"] == 0)
    names = browser.names()
    for wanted in [("button", f"Drain {kept.address} of app"), ("button", f"Enable {drained.address} of app"),
                   ("textbox", "Token, to drain and enable servers"), ("heading", "app")]:
        assert wanted in names, f"no {wanted} in {sorted(names)}"
    for size, width, scheme in [(DESKTOP, 1280, "light"), (DESKTOP, 1280, "dark"), (PHONE, 390, "light"), (PHONE, 390, "dark")]:
        browser.look(size, scheme)
        time.sleep(0.1)
        good_looks(browser, width)
        if (width == 390) == (scheme == "dark"):
            browser.picture(directory / f"balancer-{width}-{scheme}.png")

    # And on the phone it comes back.
    press(browser, drained.address)
    wait("it to be in use", lambda: row(drained)["state"] == "in use")
    before = drained.asked
    client.more()
    assert drained.asked > before + 20

    browser.keeps_to(host)
    # Chromium says by itself that an answer was no success.
    said = [entry for entry in browser.complaints() if "401" not in json.dumps(entry)]
    assert not said, said


def run(browser, program, directory):
    """Starts a balancer, uses its page, and kills it. Returns a line about it."""
    begin = time.monotonic()
    servers = [Server(), Server()]
    port, admin = free_ports(2)
    (directory / "token").write_text(TOKEN + "\n")
    addresses = ", ".join(f'{{ address = "{server.address}" }}' for server in servers)
    (directory / "lb.toml").write_text(
        f'[[listener]]\naddress = "127.0.0.1:{port}"\n[[route]]\nupstream = "app"\n'
        f"[upstream.app]\nserver = [{addresses}]\n[network]\nshards = 1\n"
        f'[admin]\naddress = "127.0.0.1:{admin}"\ntoken_file = "{directory}/token"\n'
    )
    log = open(directory / "lb.log", "wb")
    balancer = subprocess.Popen([program, directory / "lb.toml"], stderr=log, stdin=subprocess.DEVNULL)
    try:
        def answers():
            try:
                return fetch(admin, "GET", "/healthz")[:2] == (200, "ok\n")
            except OSError:
                return False

        wait("the balancer", answers)
        client = Client(port)
        see(browser, directory, admin, servers, client)
        strangers_stay_out(admin, servers[0].address)
        client.stop = True
        client.thread.join()
        state = json.loads(fetch(admin, "GET", "/state.json")[1])
        seen = itertools.chain.from_iterable(upstream["servers"] for shard in state["shards"] for upstream in shard["upstreams"])
        assert {server["address"]: server["requests"] for server in seen} == {server.address: server.asked for server in servers}
        balancer.kill()
        wait("the page to be disconnected", lambda: browser.value("document.body.dataset.link") == "lost")
        assert browser.value("[...document.querySelectorAll('.server button')].every((button) => button.disabled)")
        return f"the balancer's seen and used, {client.answers} requests meanwhile, in {time.monotonic() - begin:.1f} s"
    finally:
        balancer.kill()
        balancer.wait()
