// Searching rows, and the story of one taskhash.

import { byId, command, compareHref, counted, day, element, fill, filled, hash, tell, whyLink } from "./tools.js";

const COLUMNS = [["Reported"], ["Recipe"], ["Task"], ["Taskhash"], ["Outhash"], ["Unihash"], ["Owner"], ["Last asked for"]];
let chosen = [];

function cells(row) {
  return [day(row.created), row.PN ?? "–", row.task ?? "–", whyLink(row), hash(row.outhash), row.unihash ? hash(row.unihash) : "nothing", row.owner ?? "–", row.asked ?? "–"];
}

function choose(row, box) {
  chosen = chosen.filter((one) => one !== row);
  if (box.checked) chosen.push(row);
  byId("explore-compare").disabled = chosen.length !== 2;
}

function showRows(rows) {
  chosen = [];
  byId("explore-compare").disabled = true;
  fill(byId("explore-rows"), "Rows found", [["Compare"], ...COLUMNS], rows.map((row) => {
    const box = element("input", { type: "checkbox", disabled: !row.siginfo, "aria-label": `compare ${row.taskhash} ${row.outhash}` });
    box.addEventListener("change", () => choose(row, box));
    return [box, ...cells(row)];
  }), "nothing");
}

byId("explore-compare").addEventListener("click", () => {
  const [older, newer] = chosen.sort((one, other) => (one.created < other.created ? -1 : 1));
  location.hash = compareHref(older, newer);
});

byId("explore-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  tell("");
  const where = filled(event.target);
  if (!Object.keys(where).length) {
    byId("explore-count").textContent = "Say what to look for.";
    return;
  }
  byId("explore-count").textContent = "searching, beside lookups; this takes up to 20 seconds …";
  try {
    const found = await command("find", { where, limit: 200 });
    byId("explore-count").textContent = counted(found, found.count > found.rows.length ? `rows, the newest ${found.rows.length} are shown` : "rows");
    showRows(found.rows);
  } catch (error) {
    byId("explore-count").textContent = "";
    tell(error.message);
  }
});

function others(id, name, rows, own) {
  fill(byId(id), name, [...COLUMNS, ["Compare"]], rows.map((row) => [
    ...cells(row),
    own && own.siginfo && row.siginfo ? element("a", { href: compareHref(row, own), "aria-label": `compare with ${row.taskhash}` }, "compare") : "–",
  ]), "nobody");
}

export async function showWhy(method, taskhash) {
  byId("why-hash").textContent = `${method} ${taskhash}`;
  byId("why-findings").replaceChildren(element("li", {}, "looking …"));
  const story = await command("why", { method, taskhash });
  byId("why-findings").replaceChildren(...story.findings.map((text) => element("li", {}, text)));
  const own = story.rows[0];
  others("why-rows", "Its reports", story.rows, own);
  others("why-sharers", "Who shares its unihash", story.sharers.rows, own);
  others("why-outhashes", "Who shares its outhashes", story.outhashes.flatMap((item) => item.others.rows), own);
  others("why-near", "The newest of the same recipe and task", story.near, own);
}
