// The operator's page: asks once a second how the balancer is, and draws it. Whatever comes from
// there is only ever set as text.
"use strict";

const byId = (id) => document.getElementById(id);
const EVERY = 1000;
// Looks kept: latencies are of the last ten seconds.
const KEPT = 11;

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const rate = (value) => (value === null ? "–" : `${value > 0 && value < 10 ? value.toFixed(1) : whole.format(value)}/s`);
const set = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const time = (seconds) => {
  if (seconds === null) return "–";
  if (seconds === Infinity) return "> 33 s";
  return `≤ ${seconds < 0.001 ? `${Math.round(seconds * 1e6)} µs` : seconds < 1 ? `${+(seconds * 1000).toFixed(1)} ms` : `${+seconds.toFixed(1)} s`}`;
};

// ---- what the shards say, together

function together(state) {
  const sums = { responses: 0, unanswered: 0, retries: 0, flight: 0 };
  const upstreams = new Map();
  for (const shard of state.shards) {
    for (const name of ["responses", "unanswered", "retries"]) sums[name] += shard.counts[name];
    for (const { name, waiting, connections, servers } of shard.upstreams) {
      if (!upstreams.has(name)) upstreams.set(name, { waiting: 0, connections: 0, servers: new Map() });
      const upstream = upstreams.get(name);
      upstream.waiting += waiting;
      upstream.connections += connections;
      for (const said of servers) {
        const empty = { requests: 0, failures: 0, flight: 0, latencies: said.latencies.map(() => 0) };
        const server = upstream.servers.get(said.address) ?? empty;
        server.requests += said.requests;
        server.failures += said.failures;
        server.flight += said.in_flight;
        server.latencies = server.latencies.map((count, at) => count + said.latencies[at]);
        server.state = said.drained ? "drained" : said.ejected ? "ejected" : said.up ? "in use" : "down";
        sums.flight += said.in_flight;
        upstream.servers.set(said.address, server);
      }
    }
  }
  return { pid: state.pid, millis: state.millis, shards: state.shards.length, sums, upstreams };
}

// How much something has grown in a second, between two looks.
function growth(now, before, of) {
  const seconds = before ? (now.millis - before.millis) / 1000 : 0;
  const [a, b] = [of(now), before && of(before)];
  return seconds > 0 && b !== undefined ? Math.max(0, a - b) / seconds : null;
}

// What so large a part of the times does not exceed.
function quantile(part, latencies, before, bounds) {
  const counts = latencies.map((count, at) => Math.max(0, count - (before?.[at] ?? 0)));
  const all = counts.reduce((sum, count) => sum + count, 0);
  let sum = 0;
  for (const [at, count] of counts.entries()) {
    sum += count;
    if (all > 0 && sum >= part * all) return bounds[at] ?? Infinity;
  }
  return null;
}

// ---- the page

let looks = [];
let mayChange = false;
let lost = null;
const nodes = new Map();

// A copy of a template under a parent, made once for a key.
function part(key, template, parent) {
  if (!nodes.has(key)) {
    const node = byId(template).content.firstElementChild.cloneNode(true);
    nodes.set(key, node);
    parent.append(node);
  }
  return nodes.get(key);
}

function draw(state) {
  const now = together(state);
  // After a replacement another process counts from zero.
  if (looks.length && looks[looks.length - 1].pid !== now.pid) looks = [];
  looks.push(now);
  looks = looks.slice(-KEPT);
  const [first, before] = [looks[0], looks[looks.length - 2]];
  set(byId("rate"), rate(growth(now, before, (look) => look.sums.responses)));
  set(byId("unanswered"), rate(growth(now, before, (look) => look.sums.unanswered)));
  set(byId("retries"), rate(growth(now, before, (look) => look.sums.retries)));
  set(byId("flight"), whole.format(now.sums.flight));
  const used = new Set();
  for (const [name, upstream] of now.upstreams) {
    const key = JSON.stringify([name]);
    used.add(key);
    const section = part(key, "upstream", byId("upstreams"));
    set(section.querySelector("h2"), name);
    const wait = upstream.waiting ? `${whole.format(upstream.waiting)} waiting, ` : "";
    set(section.querySelector(".waiting"), `${wait}${whole.format(upstream.connections)} connections`);
    for (const [address, server] of upstream.servers) {
      const key = JSON.stringify([name, address]);
      used.add(key);
      const of = (look) => look.upstreams.get(name)?.servers.get(address);
      const row = part(key, "server", section.querySelector("ul"));
      row.dataset.state = server.state;
      set(row.querySelector(".address"), address);
      set(row.querySelector(".state"), server.state);
      set(row.querySelector(".rate"), rate(growth(now, before, (look) => of(look)?.requests)));
      set(row.querySelector(".flight"), whole.format(server.flight));
      set(row.querySelector(".failures"), rate(growth(now, before, (look) => of(look)?.failures)));
      for (const [name, part] of [["p50", 0.5], ["p99", 0.99]]) {
        const value = quantile(part, server.latencies, first === now ? server.latencies : of(first)?.latencies, state.latency_bounds);
        set(row.querySelector(`.${name}`), time(value));
      }
      const button = row.querySelector("button");
      const word = server.state === "drained" ? "Enable" : "Drain";
      set(button, word);
      button.setAttribute("aria-label", `${word} ${address} of ${name}`);
      button.onclick = () => change(word.toLowerCase(), name, address);
    }
  }
  for (const [key, node] of nodes) if (!used.has(key)) { node.remove(); nodes.delete(key); }
  mayChange = state.changes;
  allow();
  if (!mayChange) set(byId("outcome"), "Nothing can be changed: admin.token_file is not set.");
  const shards = now.shards === 1 ? "1 shard" : `${now.shards} shards`;
  set(byId("about"), `throng-lb ${state.version}, process ${state.pid}, ${shards}, ${state.reloads} reloads`);
  link("live", state.stage === "serving" ? "Live" : `Live, ${state.stage}`);
}

function link(state, said) {
  document.body.dataset.link = state;
  set(byId("link"), said);
}

function allow() {
  const may = mayChange && lost === null && byId("token").value !== "";
  byId("token").disabled = !mayChange;
  for (const button of document.querySelectorAll(".server button")) button.disabled = !may;
}

function say(text, bad) {
  const node = byId("outcome");
  node.classList.toggle("bad", bad);
  set(node, text);
}

async function change(word, upstream, server) {
  const query = new URLSearchParams({ upstream, server }).toString().replaceAll("+", "%20");
  try {
    const headers = { authorization: `Bearer ${byId("token").value}` };
    const answer = await fetch(`/${word}?${query}`, { method: "POST", headers });
    if (answer.ok) say(`${server} of ${upstream}: ${word === "drain" ? "drained" : "enabled"}.`, false);
    else say(answer.status === 401 ? "That is not the token." : `Not changed: ${(await answer.text()).trim()}.`, true);
  } catch {
    say("Not changed: the balancer does not answer.", true);
  }
  look();
}

async function look() {
  try {
    const answer = await fetch("/state.json", { signal: AbortSignal.timeout(5000) });
    const state = await answer.json();
    lost = null;
    draw(state);
  } catch {
    lost ??= new Date();
    link("lost", `Disconnected since ${lost.toLocaleTimeString("en-GB")}`);
    allow();
  }
}

byId("key").addEventListener("submit", (event) => event.preventDefault());
byId("token").addEventListener("input", allow);
async function onAndOn() {
  await look();
  setTimeout(onAndOn, EVERY);
}
onAndOn();
