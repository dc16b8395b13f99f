// The view of the present: plots over the last hour, health, size, builds and connections, as the server tells them.

import { ago, ask, brief, byId, bytes, count, element, fill, list, percent, tell } from "./tools.js";

const PLOTS = [
  { title: "Lookups a second", column: "lookups", unit: "/s" },
  { title: "Hit rate", column: "hit_rate", unit: " %", range: [0, 100], gaps: true },
  { title: "99 of 100 answered within", column: "p99", unit: " ms", gaps: true },
  { title: "Reports a second", column: "reports", unit: "/s" },
  { title: "Reused instead of built, a second", column: "reused", unit: "/s" },
  { title: "Connections", column: "connections", unit: "" },
];
const KEPT = 3600;
const drawn = [];
let names = [];
let samples = [];
let events = null;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const clock = (at, step) => new Date(at * 1000).toTimeString().slice(0, step < 60 ? 8 : 5);

function plot(of, at) {
  const value = element("strong", {}, "–");
  const place = element("div", { class: "plot", role: "img" });
  byId("plots").append(element("figure", {}, element("figcaption", {}, element("span", {}, of.title), value), place));
  return { of, at, value, place, chart: null };
}

function draw(one) {
  const axis = {
    stroke: colour("--soft"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line"), width: 1 },
    font: "12px system-ui, sans-serif",
  };
  one.chart?.destroy();
  one.place.replaceChildren();
  one.chart = new uPlot(
    {
      width: Math.max(200, one.place.clientWidth),
      height: 150,
      cursor: { y: false },
      legend: { show: false },
      scales: { y: { range: (_, low, high) => one.of.range || [0, Math.max(1, high * 1.1)] } },
      axes: [
        { ...axis, size: 28, space: 90, values: (_, moments, __, ___, step) => moments.map((at) => clock(at, step)) },
        { ...axis, size: 60, values: (_, values) => values.map(brief) },
      ],
      series: [{}, { stroke: colour("--plot-1"), width: 1.5, spanGaps: false, points: { show: Boolean(one.of.gaps), size: 4, fill: colour("--plot-1") } }],
    },
    columns(one),
    one.place,
  );
}

function columns(one) {
  return [samples.map((sample) => sample[0]), samples.map((sample) => sample[one.at])];
}

function show() {
  const last = samples.at(-1);
  if (!last) return;
  for (const one of drawn) {
    one.chart.setData(columns(one));
    const value = last[one.at];
    one.value.textContent = value === null ? "–" : brief(value) + one.of.unit;
    const peak = Math.max(0, ...samples.map((sample) => sample[one.at] ?? 0));
    one.place.setAttribute(
      "aria-label",
      `${one.of.title}, the last hour: now ${one.value.textContent}, at most ${brief(peak)}${one.of.unit}`,
    );
  }
}

function take(sample) {
  samples.push(sample);
  while (samples.length && samples[0][0] < sample[0] - KEPT) samples.shift();
  show();
}

function showStatus(status) {
  const well = status.ready ? (status.checks.every((check) => check.well) ? "good" : "fair") : "bad";
  byId("well").className = well;
  byId("well").textContent = { good: "✓ all is well", fair: "! ready, with trouble", bad: "✗ not ready" }[well];
  byId("version").textContent = `shardhash ${status.version}, started ${ago(status.now - status.started)}`;
  byId("checks").replaceChildren(
    ...status.checks.map((check) =>
      element("li", { class: check.well ? "good" : check.needed ? "bad" : "fair" },
        `${check.well ? "✓" : check.needed ? "✗" : "!"} ${check.name}: ${check.text}`)),
  );
  const hidden = "for users with @db-admin";
  const memory = status.shards.reduce((sum, shard) => sum + (shard.memory || 0), 0);
  list(byId("size"), [
    ["Mappings", status.mappings === null ? hidden : count(status.mappings)],
    ["Outhash rows", status.rows === null ? hidden : count(status.rows)],
    ["Memory of the shards", bytes(memory)],
    ["Disk", status.disk ? `${bytes(status.disk.free)} of ${bytes(status.disk.total)} free` : "everything is in memory"],
  ]);
  list(byId("totals"), [
    ["Lookups", count(status.totals.lookups)],
    ["Known", `${count(status.totals.hits)} (${percent(status.totals.hits, status.totals.lookups)})`],
    ["Reports", count(status.totals.reports)],
    ["Reused instead of built", count(status.totals.reused)],
    ["Reports not stored", count(status.totals.dropped)],
  ]);
  const builds = status.builds.filter((build) => build.hits + build.misses + build.reports > 0);
  fill(byId("builds"), "Last builds",
    [["Host"], ["Last asked"], ["Lookups", true], ["Known", true], ["Reports", true], ["Reused", true]],
    builds.map((build) => [
      build.host ?? "a builder",
      ago(status.now - build.last),
      count(build.hits + build.misses),
      percent(build.hits, build.hits + build.misses),
      count(build.reports),
      count(build.reused),
    ]), "none yet");
  const transports = Object.entries(status.transports).map(([kind, number]) => `${number} by ${kind}`);
  byId("transports").textContent = transports.join(", ") || "Nobody is connected.";
  const connected = status.connected;
  fill(byId("connected"), "Connected", [["Peer"], ["By"], ["User"], ["Since"]],
    (connected || []).map((one) => [one.peer, one.transport, one.user ?? "", ago(status.now - one.since)]),
    connected === null ? `Who they are is ${hidden}.` : "nobody");
  fill(byId("shards"), "Shards",
    [["Shard", true], ["Mappings", true], ["Memory", true], ["Log", true], ["Snapshot"], ["Restarts", true], ["State"]],
    status.shards.map((shard) => [
      String(shard.shard),
      shard.mappings === undefined ? "" : count(shard.mappings),
      shard.memory ? bytes(shard.memory) : "",
      shard.log_bytes ? bytes(shard.log_bytes) : "",
      shard.snapshot_time ? ago(status.now - shard.snapshot_time) : "none",
      String(shard.restarts),
      shard.why || "answers",
    ]), "none");
}

// Show the present and follow it, with the rights that the viewer has now.
export async function follow() {
  events?.close();
  const [past, status] = await Promise.all([ask("api/history"), ask("api/status")]);
  names = past.names;
  samples = past.samples;
  if (!drawn.length) {
    for (const of of PLOTS) drawn.push(plot(of, names.indexOf(of.column)));
    drawn.forEach(draw);
    new ResizeObserver(() => drawn.forEach((one) => one.chart.setSize({ width: Math.max(200, one.place.clientWidth), height: 150 })))
      .observe(byId("plots"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));
  }
  show();
  showStatus(status);
  events = new EventSource("api/events");
  events.addEventListener("sample", (event) => take(JSON.parse(event.data)));
  events.addEventListener("status", (event) => showStatus(JSON.parse(event.data)));
  let lost = false;
  events.onerror = () => {
    lost = true;
    tell("The server does not answer. This page tries again.");
  };
  events.onopen = async () => {
    if (!lost) return;
    lost = false;
    tell("");
    samples = (await ask("api/history")).samples;
  };
}

export function unfollow() {
  events?.close();
  events = null;
}
