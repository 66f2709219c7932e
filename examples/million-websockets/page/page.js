// The live page: a WebSocket says twice a second what the server does, and this draws it.
// Whatever others have typed is only ever set as text.
"use strict";

const byId = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");

// ---- numbers as text

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const digits = (value) => (value >= 100 ? 0 : value >= 10 ? 1 : 2);
const scaled = (value, step, names) => {
  let at = 0;
  while (value >= step && at < names.length - 1) { value /= step; at += 1; }
  return `${value.toFixed(at === 0 && step === 1024 ? 0 : digits(value))} ${names[at]}`;
};
const bytes = (count) => scaled(count, 1024, ["B", "KiB", "MiB", "GiB"]);
const time = (micros) => scaled(micros, 1000, ["µs", "ms", "s"]);
const ago = (seconds) => (seconds < 60 ? `${Math.round(seconds)} s` : `${+(seconds / 60).toFixed(1)} min`);
const set = (id, text) => { const node = byId(id); if (node.textContent !== text) node.textContent = text; };

// ---- charts: canvases that draw columns of the history

const COLUMNS = ["at", "handshakes", "messages", "p50", "p99", "p999", "memory", "cores"];
const KEPT = 600;
let columns = Object.fromEntries(COLUMNS.map((name) => [name, []]));
let theme = {};

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["card", "ink", "dim", "line", "empty", "accent", "glow", "p50", "p99", "p999"]) {
    theme[name] = style.getPropertyValue(`--${name}`).trim();
  }
}

// A canvas with as many pixels as it covers, to be drawn on in CSS pixels.
function sheet(canvas) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return [pen, width, height];
}

// The least of 1, 2, 5, 10, ... that is not below a number.
function nice(value) {
  const ten = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * ten).find((step) => step >= value * 0.999);
}

class Chart {
  constructor(id, series, format, { log = false, least = 1, step = 1 } = {}) {
    Object.assign(this, { canvas: byId(id), series, format, log, least, step, pointed: null });
    this.title = this.canvas.getAttribute("aria-label");
    this.canvas.addEventListener("pointermove", (event) => { this.pointed = event.offsetX; this.draw(); });
    for (const end of ["pointerleave", "pointercancel"]) {
      this.canvas.addEventListener(end, () => { this.pointed = null; this.draw(); });
    }
  }

  // From the least to the most of the vertical axis.
  range(first) {
    let [low, high] = [Infinity, 0];
    for (const { name } of this.series) {
      for (const value of columns[name].slice(first)) {
        if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
      }
    }
    if (!this.log) return [0, nice(Math.max(high, this.least) / this.step) * this.step];
    low = 10 ** Math.floor(Math.log10(Math.max(Math.min(low, 1e6), 1)));
    return [low, Math.max(10 ** Math.ceil(Math.log10(Math.max(high, 1))), low * 100)];
  }

  draw() {
    const [pen, width, height] = sheet(this.canvas);
    const at = columns.at;
    const now = at.length ? at[at.length - 1] : 0;
    const span = Math.min(300, Math.max(30, now - (at[0] ?? now)));
    const first = Math.max(0, at.findIndex((t) => t >= now - span) - 1);
    const [low, high] = this.range(first);
    const [top, bottom, right] = [16, height - 18, width - 2];
    const x = (t) => right - ((now - t) / span) * right;
    const y = this.log
      ? (v) => bottom - (Math.log(Math.max(v, low) / low) / Math.log(high / low)) * (bottom - top)
      : (v) => bottom - (v / high) * (bottom - top);

    pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    pen.lineWidth = 1;
    const lines = this.log
      ? Array.from({ length: Math.round(Math.log10(high / low)) + 1 }, (_, i) => low * 10 ** i)
      : [0, high / 2, high];
    pen.textAlign = "left";
    for (const line of lines) {
      const place = Math.round(y(line)) + 0.5;
      pen.strokeStyle = theme.line;
      pen.beginPath(); pen.moveTo(0, place); pen.lineTo(right, place); pen.stroke();
      pen.fillStyle = theme.dim;
      if (line > 0) pen.fillText(this.format(line), 0, place - 4);
    }
    pen.fillStyle = theme.dim;
    pen.fillText(`${ago(span)} ago`, 0, height - 3);
    pen.textAlign = "right";
    pen.fillText("now", right, height - 3);

    for (const { name, color, fill } of this.series) this.line(pen, columns[name], first, x, y, color, fill, bottom);
    if (this.pointed !== null && at.length) this.point(pen, at, first, x, y, width);
    this.describe();
  }

  line(pen, values, first, x, y, color, fill, bottom) {
    pen.strokeStyle = theme[color];
    pen.lineWidth = 1.75;
    pen.lineJoin = "round";
    // What was not measured is a gap.
    let run = [];
    const flush = () => {
      if (run.length) {
        pen.beginPath();
        run.forEach(([a, b], i) => (i ? pen.lineTo(a, b) : pen.moveTo(a, b)));
        if (run.length === 1) pen.lineTo(run[0][0] + 1.5, run[0][1]);
        pen.stroke();
        if (fill) {
          pen.lineTo(run[run.length - 1][0], bottom); pen.lineTo(run[0][0], bottom); pen.closePath();
          pen.globalAlpha = 0.14; pen.fillStyle = theme[color]; pen.fill(); pen.globalAlpha = 1;
        }
      }
      run = [];
    };
    for (let i = first; i < values.length; i += 1) {
      if (values[i] === null) flush(); else run.push([x(columns.at[i]), y(values[i])]);
    }
    flush();
  }

  // What was when, under the pointer.
  point(pen, at, first, x, y, width) {
    let nearest = first;
    for (let i = first; i < at.length; i += 1) {
      if (Math.abs(x(at[i]) - this.pointed) < Math.abs(x(at[nearest]) - this.pointed)) nearest = i;
    }
    const place = x(at[nearest]);
    const said = this.series.map(({ name }) => columns[name][nearest])
      .map((value) => (value === null ? "–" : this.format(value))).join("  ");
    const text = `${said}  ${ago(at[at.length - 1] - at[nearest])} ago`;
    pen.strokeStyle = theme.dim;
    pen.lineWidth = 1;
    pen.beginPath(); pen.moveTo(place, 16); pen.lineTo(place, this.canvas.clientHeight - 18); pen.stroke();
    for (const { name, color } of this.series) {
      const value = columns[name][nearest];
      if (value === null) continue;
      pen.fillStyle = theme[color];
      pen.beginPath(); pen.arc(place, y(value), 3, 0, 7); pen.fill();
    }
    const room = pen.measureText(text).width + 12;
    const left = Math.min(Math.max(place - room / 2, 0), width - room);
    pen.fillStyle = theme.ink;
    pen.beginPath(); pen.roundRect(left, 0, room, 19, 6); pen.fill();
    pen.fillStyle = theme.card;
    pen.textAlign = "left";
    pen.fillText(text, left + 6, 13.5);
  }

  // The same in words, for who does not see it.
  describe() {
    const words = this.series.map(({ name, label }) => {
      const value = columns[name][columns[name].length - 1];
      return `${label ?? "now"} ${value == null ? "not measured" : this.format(value)}`;
    });
    this.canvas.setAttribute("aria-label", `${this.title}: ${words.join(", ")}`);
  }
}

const charts = [
  new Chart("latency-chart", [
    { name: "p50", color: "p50", label: "p50" },
    { name: "p99", color: "p99", label: "p99" },
    { name: "p999", color: "p999", label: "p99.9" },
  ], time, { log: true }),
  new Chart("messages-chart", [{ name: "messages", color: "accent", fill: true }], (v) => short.format(v), { least: 100 }),
  new Chart("handshakes-chart", [{ name: "handshakes", color: "accent", fill: true }], (v) => short.format(v), { least: 100 }),
  new Chart("memory-chart", [{ name: "memory", color: "accent", fill: true }], bytes, { least: 1024 ** 2, step: 1024 ** 2 }),
  new Chart("cores-chart", [{ name: "cores", color: "accent", fill: true }], (v) => v.toFixed(1)),
];

function remember(tick) {
  const latency = tick.latency ?? { p50: null, p99: null, p999: null };
  const values = {
    at: tick.at, handshakes: tick.handshakes_per_second, messages: tick.messages_per_second,
    p50: latency.p50, p99: latency.p99, p999: latency.p999, memory: tick.memory, cores: tick.cores,
  };
  for (const name of COLUMNS) {
    columns[name].push(values[name]);
    if (columns[name].length > KEPT) columns[name].shift();
  }
}

// ---- the crowd: dots that stand for equally many connections each

// How long an echo glows, and a broadcast; how long a broadcast's wave takes to the rim.
const [ECHO, SHOUT, WAVE] = [500, 1500, 700];

const crowd = {
  canvas: byId("crowd"),
  dots: [], each: 1, shown: 0, wanted: 0,
  // How much of the crowd a broadcast has reached, and how far its wave is drawn.
  reached: 0, wave: 1,
  drawn: 0,

  // At most a thousand dots, from the middle outwards, each the golden angle on from the one
  // before it: as sunflowers do it, equally close everywhere.
  build(total) {
    this.each = Math.max(1, Math.ceil(total / 1000));
    const count = Math.ceil(total / this.each);
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const apart = Math.sqrt((Math.PI * width * height) / 4 / count);
    this.radius = Math.min(Math.max(1, apart * 0.32), 9);
    const [rx, ry] = [width / 2 - this.radius * 1.3, height / 2 - this.radius * 1.3];
    this.dots = Array.from({ length: count }, (_, i) => {
      const [far, angle] = [Math.sqrt((i + 0.5) / count), i * Math.PI * (3 - Math.sqrt(5))];
      return { x: width / 2 + rx * far * Math.cos(angle), y: height / 2 + ry * far * Math.sin(angle), glow: -Infinity, time: 1 };
    });
    set("scale", this.each === 1 ? "Each dot is a connection" : `Each dot is ${whole.format(this.each)} connections`);
  },

  update(tick) {
    this.wanted = tick.connections / this.each;
    const filled = Math.min(this.dots.length, Math.floor(this.wanted));
    // Echoes: so many of the dots as connections have one, each some time before the next tick.
    const echoes = Math.min((tick.messages_per_second / 2) * every / this.each, 60, filled);
    for (let i = 0; !calm.matches && i < echoes; i += 1) {
      this.glow(Math.floor(Math.random() * filled), performance.now() + Math.random() * every * 1000, ECHO);
    }
    this.canvas.setAttribute("aria-label", `${whole.format(tick.connections)} connections are open`);
    this.wake();
  },

  glow(i, from, time) {
    const dot = this.dots[i];
    // What shines longer goes on.
    if (dot.glow + dot.time < from + time) Object.assign(dot, { glow: from, time });
  },

  // A broadcast has reached a part of them.
  light(part, fresh) {
    if (fresh) this.wave = calm.matches ? 1 : 0;
    this.reached = part;
    this.wake();
  },

  wake() {
    if (!this.frame) this.frame = requestAnimationFrame((now) => this.draw(now));
  },

  draw(now) {
    this.frame = 0;
    // The machine has better things to do than sixty frames a second.
    if (now - this.drawn < 40) { this.wake(); return; }
    const passed = Math.min(1, (now - this.drawn) / 1000);
    this.drawn = now;
    const step = calm.matches ? Infinity : Math.max(2, Math.abs(this.wanted - this.shown) * 4) * passed;
    this.shown += Math.max(-step, Math.min(step, this.wanted - this.shown));

    const [pen] = sheet(this.canvas);
    const filled = Math.min(this.dots.length, Math.round(this.shown));
    if (this.wave < this.reached) {
      const to = Math.min(this.reached, this.wave + (passed * 1000) / WAVE);
      // Equally fast along the radius, so ever more of them.
      for (let i = Math.floor(filled * this.wave ** 2); i < Math.floor(filled * to ** 2); i += 1) this.glow(i, now, SHOUT);
      this.wave = to;
    }
    let busy = Math.abs(this.wanted - this.shown) > 0.01 || this.wave < this.reached;
    const circles = (from, to, color, size) => {
      pen.fillStyle = color;
      pen.beginPath();
      for (let i = from; i < to; i += 1) {
        const { x, y } = this.dots[i];
        pen.moveTo(x + size, y);
        pen.arc(x, y, size, 0, 7);
      }
      pen.fill();
    };
    circles(filled, this.dots.length, theme.empty, this.radius * 0.5);
    circles(0, filled, theme.accent, this.radius);
    for (let i = 0; i < filled; i += 1) {
      const { glow, time } = this.dots[i];
      const since = (now - glow) / time;
      busy ||= since < 1;
      if (since < 0 || since >= 1) continue;
      pen.globalAlpha = 1 - since ** 2;
      circles(i, i + 1, theme.glow, this.radius * (1.3 - 0.3 * since));
    }
    pen.globalAlpha = 1;
    if (busy && !document.hidden) this.wake();
  },
};

// ---- what is shown of a tick

let about = null;
let every = 0.5;
let last = null;

const PHASES = {
  opening: (t) => `Opening ${whole.format(t.done)} of ${whole.format(t.total)}`,
  echoing: (t) => `Echoing once on each: ${whole.format(t.done)} of ${whole.format(t.total)}`,
  loading: (t) => `Echoing at a rate: ${whole.format(t.done)} of ${whole.format(t.total)}`,
  resting: () => "Resting, to see what an idle one costs",
  broadcasting: (t) => `Broadcast: ${whole.format(t.done)} of ${whole.format(t.total)} have it`,
  holding: () => "Holding, with echoes on random ones",
  closing: (t) => `Closing: ${whole.format(t.done)} of ${whole.format(t.total)} are closed`,
  ended: () => "The run has ended",
  waiting: (t) => (t.client_silent ? "The client says nothing any more"
    : t.connections > 0 ? "Serving clients from elsewhere" : "Waiting for connections"),
};

const WRONG = [
  ["not opened", (t) => t.client?.failed], ["lost", (t) => t.client?.lost],
  ["wrong echoes", (t) => t.client?.wrong], ["missing echoes", (t) => t.client?.missing],
  ["not sent", (t) => t.client?.skipped], ["not closed", (t) => t.client?.stuck],
  ["refused", (t) => t.refused], ["missed by slow ones", (t) => t.missed],
  ["slow, disconnected", (t) => t.disconnected], ["found dead", (t) => t.dead],
];

function show(tick) {
  last = tick;
  set("connections", whole.format(tick.connections));
  set("phase", PHASES[tick.phase](tick));
  const part = tick.total > 0 ? Math.min(1, tick.done / tick.total) : null;
  set("percent", part === null ? "" : `${Math.floor(part * 100)} %`);
  byId("progress").value = part ?? Math.min(1, tick.connections / Math.max(1, about.wanted));

  set("messages", whole.format(tick.messages_per_second));
  set("handshakes", whole.format(tick.handshakes_per_second));
  for (const [id, name] of [["p50", "p50"], ["p99", "p99"], ["p999", "p999"], ["longest", "max"]]) {
    set(id, tick.latency ? time(tick.latency[name]) : "–");
  }
  set("bytes", tick.bytes_per_connection === null ? "–" : `${whole.format(tick.bytes_per_connection)} B`);
  set("memory", bytes(tick.memory));
  set("queued", bytes(tick.shards.reduce((sum, shard) => sum + shard.queued, 0)));
  set("cores", tick.cores.toFixed(2));
  showShards(tick.shards);
  showWrong(tick);
  crowd.update(tick);
  for (const chart of charts) chart.draw();
  allow();
}

function showShards(shards) {
  const list = byId("shards");
  while (list.children.length > shards.length) list.lastChild.remove();
  while (list.children.length < shards.length) {
    const row = document.createElement("li");
    for (const name of ["name", "bar", "said"]) {
      row.appendChild(document.createElement("div")).className = name;
    }
    row.children[0].textContent = String(list.children.length);
    row.children[1].appendChild(document.createElement("span"));
    row.children[1].setAttribute("aria-hidden", "true");
    for (const unit of ["connections", "messages/s"]) {
      const said = row.children[2].appendChild(document.createElement("span"));
      said.append(document.createElement("b"), ` ${unit}`);
    }
    list.append(row);
  }
  list.classList.toggle("many", shards.length > 4);
  const counts = shards.map((shard) => shard.connections);
  const balance = Math.min(...counts) / Math.max(...counts);
  set("spread", balance >= 0 ? `${(100 * balance).toFixed(1)} %` : "–");
  // Against an even share: a full bar is one that has all that its shard should ever have.
  const most = Math.max(1, about.wanted / shards.length, ...counts);
  shards.forEach((shard, i) => {
    const row = list.children[i];
    row.children[1].firstChild.style.width = `${(100 * shard.connections) / most}%`;
    const [connections, messages] = row.children[2].children;
    connections.firstChild.textContent = whole.format(shard.connections);
    messages.firstChild.textContent = whole.format(shard.messages_per_second);
  });
}

function showWrong(tick) {
  const list = byId("wrong");
  let sum = 0;
  WRONG.forEach(([name, of], i) => {
    if (!list.children[i]) {
      const entry = list.appendChild(document.createElement("div"));
      entry.append(document.createElement("dt"), document.createElement("dd"));
      entry.firstChild.textContent = name;
    }
    const value = of(tick);
    sum += value ?? 0;
    list.children[i].classList.toggle("bad", value > 0);
    list.children[i].lastChild.textContent = value == null ? "–" : whole.format(value);
  });
  set("wrong-sum", sum === 0 ? "nothing" : whole.format(sum));
  byId("wrong-sum").classList.toggle("bad", sum > 0);
}

// ---- the broadcast

let outcome = null;

function allow() {
  const ready = socket?.readyState === WebSocket.OPEN && last?.connections > 0
    && !["closing", "ended", "broadcasting"].includes(last.phase) && outcome?.state !== "going";
  byId("send").disabled = !ready;
}

function showOutcome(now) {
  const fresh = now.id !== outcome?.id;
  // How many it is for is said when the server has taken it.
  const going = outcome?.subscribers === 0;
  outcome = now;
  const strong = (text) => Object.assign(document.createElement("b"), { textContent: text });
  const line = byId("outcome");
  line.classList.toggle("bad", now.state === "failed" || now.refused > 0);
  const parts = [`“${now.text}” `];
  if (now.subscribers === 0 && now.state === "failed") {
    parts.push("was not taken by the server.");
  } else if (now.subscribers > 0) {
    parts.push("reached ", strong(whole.format(now.delivered)), ` of ${whole.format(now.subscribers)} connections in `);
    parts.push(strong(`${now.seconds.toFixed(2)} s`));
    if (now.missed > 0) parts.push(`, ${whole.format(now.missed)} slow ones missed one`);
    if (now.disconnected > 0) parts.push(`, ${whole.format(now.disconnected)} slow ones were disconnected`);
    if (now.refused > 0) parts.push(`, ${whole.format(now.refused)} shards had too much under way`);
    parts.push(now.heard === null ? "." : `; the client has heard it ${whole.format(now.heard)} times.`);
    crowd.light(now.delivered / now.subscribers, fresh || going);
  } else {
    parts.push("is on its way.");
  }
  line.replaceChildren(...parts);
  Object.assign(line.dataset, { id: now.id, state: now.state, delivered: now.delivered, heard: now.heard ?? "" });
  allow();
}

byId("shout").addEventListener("submit", (event) => {
  event.preventDefault();
  if (byId("send").disabled) return;
  socket.send(JSON.stringify({ broadcast: byId("text").value }));
});

// ---- the socket

let socket = null;
let tries = 0;
let heard = 0;
let retry = 0;
let ended = false;

function link(state, text) {
  document.body.dataset.link = state;
  set("link", text);
}

const TOLD = {
  hello(value) {
    tries = 0;
    ended = false;
    ({ about, every } = value);
    columns = value.history;
    outcome = null;
    last = null;
    crowd.build(about.wanted);
    set("whose", about.one_process ? "of server and client, which are one process" : "of the server's process");
    set("about", `Device ${about.device}, ${about.shards === 1 ? "one shard" : `${about.shards} shards`}, `
      + `room for ${whole.format(about.wanted)} connections.`);
    link("live", "Live");
    show(value.tick);
    if (value.broadcast) showOutcome(value.broadcast);
  },
  tick(value) { remember(value); show(value); },
  broadcast(value) { showOutcome(value); },
  sorry(value) {
    byId("outcome").classList.add("bad");
    set("outcome", `Not published: ${value}.`);
  },
  end() { ended = true; },
};

function connect() {
  clearTimeout(retry);
  if (socket) { socket.onclose = socket.onmessage = null; socket.close(); }
  socket = new WebSocket(`ws://${location.host}/live`);
  heard = performance.now();
  socket.onmessage = (event) => {
    heard = performance.now();
    const { is, value } = JSON.parse(event.data);
    TOLD[is]?.(value);
  };
  socket.onclose = lost;
}

function lost() {
  socket = null;
  allow();
  const when = new Date().toLocaleTimeString("en-GB");
  const wait = Math.min(5, 0.5 * 2 ** tries) * (ended ? 2 : 1);
  tries += 1;
  if (ended) link("ended", "The server has ended");
  else if (document.body.dataset.link !== "lost") link("lost", `Disconnected since ${when}, trying again`);
  retry = setTimeout(connect, wait * 1000);
}

// A server that is stopped, or a cable that is out, closes nothing.
setInterval(() => {
  if (socket && performance.now() - heard > 6000) { socket.onclose = null; socket.close(); lost(); }
}, 1000);

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  crowd.wake();
  if (!socket) { tries = 0; connect(); }
});

function redraw() {
  readTheme();
  if (!last) return;
  crowd.build(about.wanted);
  crowd.shown = crowd.wanted = last.connections / crowd.each;
  crowd.wake();
  for (const chart of charts) chart.draw();
}

let resized = 0;
new ResizeObserver(() => { clearTimeout(resized); resized = setTimeout(redraw, 60); }).observe(document.body);
dark.addEventListener("change", redraw);

readTheme();
connect();
