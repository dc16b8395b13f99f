// Two outhash_siginfo texts side by side, with the lines that differ marked.

import { byId, command, element, fill } from "./tools.js";

const AROUND = 2; // equal lines that are shown beside differing ones
const MOST = 5000; // lines that are shown
let lines = [];

// Pairs [left, right] of lines, null where one side has none. Lines that stand once in each text, in the same order, hold
// the texts together; between them lines are taken in turn.
export function pair(left, right) {
  const result = [];
  let start = 0;
  while (start < left.length && start < right.length && left[start] === right[start]) {
    result.push([left[start], right[start]]);
    start += 1;
  }
  let leftEnd = left.length;
  let rightEnd = right.length;
  const tail = [];
  while (leftEnd > start && rightEnd > start && left[leftEnd - 1] === right[rightEnd - 1]) {
    leftEnd -= 1;
    rightEnd -= 1;
    tail.push([left[leftEnd], right[rightEnd]]);
  }
  let [at, over] = [start, start];
  for (const [leftAt, rightAt] of anchors(left, right, start, leftEnd, rightEnd)) {
    between(result, left.slice(at, leftAt), right.slice(over, rightAt));
    result.push([left[leftAt], right[rightAt]]);
    [at, over] = [leftAt + 1, rightAt + 1];
  }
  between(result, left.slice(at, leftEnd), right.slice(over, rightEnd));
  return result.concat(tail.reverse());
}

// Places of lines that stand once in each part, as many as can be had in the same order.
function anchors(left, right, start, leftEnd, rightEnd) {
  const seen = new Map();
  const note = (line, side, at) => {
    const places = seen.get(line) || { left: [], right: [] };
    places[side].push(at);
    seen.set(line, places);
  };
  for (let at = start; at < leftEnd; at += 1) note(left[at], "left", at);
  for (let at = start; at < rightEnd; at += 1) note(right[at], "right", at);
  const once = [...seen.values()].filter((places) => places.left.length === 1 && places.right.length === 1)
    .map((places) => [places.left[0], places.right[0]]);
  const tops = []; // longest increasing run of right places: the end of the best run of each length
  const before = new Map();
  for (const place of once) {
    let low = 0;
    let high = tops.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (tops[middle][1] < place[1]) low = middle + 1;
      else high = middle;
    }
    before.set(place, low ? tops[low - 1] : null);
    tops[low] = place;
  }
  const run = [];
  for (let place = tops.at(-1); place; place = before.get(place)) run.push(place);
  return run.reverse();
}

// What is left between two anchors: lines of the same file, by their last word, stand side by side.
function between(result, left, right) {
  const name = (line) => line.trim().split(/\s+/).at(-1);
  const waiting = new Map(right.map((line) => [name(line), line]));
  const used = new Set();
  for (const line of left) {
    const other = waiting.get(name(line));
    const found = other !== undefined && !used.has(other) ? other : null;
    if (found !== null) used.add(found);
    result.push([line, found]);
  }
  for (const line of right) if (!used.has(line)) result.push([null, line]);
}

function draw() {
  const all = byId("compare-all").checked;
  const near = new Set();
  lines.forEach(([left, right], at) => {
    if (left !== right) for (let by = -AROUND; by <= AROUND; by += 1) near.add(at + by);
  });
  const rows = [];
  let hidden = 0;
  lines.forEach(([left, right], at) => {
    if (!all && !near.has(at)) {
      hidden += 1;
      return;
    }
    if (hidden) rows.push(gap(hidden));
    hidden = 0;
    const kind = left === right ? "both" : "only";
    rows.push(element("tr", {}, element("td", { class: kind }, left ?? ""), element("td", { class: kind }, right ?? "")));
  });
  if (hidden) rows.push(gap(hidden));
  byId("compare-lines").tBodies[0].replaceChildren(...rows.slice(0, MOST));
}

const gap = (count) => element("tr", { class: "gap" }, element("td", { colSpan: 2 }, `${count} equal lines`));

byId("compare-all").addEventListener("change", draw);

export async function showCompare(...keys) {
  byId("compare-count").textContent = "loading …";
  const rows = await Promise.all([keys.slice(0, 3), keys.slice(3)].map(([method, taskhash, outhash]) =>
    command("get-row", { method, taskhash, outhash })));
  if (rows.some((row) => row === null || row.outhash_siginfo === null)) {
    byId("compare-count").textContent = "One of the two is not there, or was reported without a siginfo.";
    return;
  }
  const texts = rows.map((row) => row.outhash_siginfo.split("\n"));
  lines = pair(texts[0], texts[1]);
  const differing = lines.filter(([left, right]) => left !== right).length;
  byId("compare-count").textContent = differing ? `${differing} of ${lines.length} lines differ` : "no line differs";
  fill(byId("compare-lines"), "Two outputs side by side",
    rows.map((row) => [`${row.PN ?? ""} ${row.task ?? ""} outhash ${row.outhash.slice(0, 16)} of ${row.taskhash.slice(0, 16)}`]), [], "");
  draw();
}
