// Poisoned entries: set aside and taken back, removed and undone.

import { byId, command, count, day, element, fill, filled, hash, tell, whyLink } from "./tools.js";

const AT_ONCE = 100; // rows of one message, with their siginfo
let chosen = null;

async function start(doing) {
  tell("");
  byId("quarantine-done").textContent = "";
  try {
    await doing();
  } catch (error) {
    byId("quarantine-done").textContent = "";
    tell(error.message);
  }
}

async function list() {
  const { quarantines } = await command("quarantines", {});
  fill(byId("quarantine-list"), "In quarantine", [["Since"], ["By"], ["What"], ["Reason"], ["Mappings", true], ["Take back"]],
    quarantines.map((entry) => {
      const what = Object.entries(entry.where).map(([name, text]) => `${name} ${text}`).join(", ");
      const button = element("button", { type: "button", "aria-label": `release ${entry.name}` }, "Release");
      button.addEventListener("click", () => start(async () => {
        const released = await command("release", { name: entry.name });
        await list();
        byId("quarantine-done").textContent = `${count(released.restored)} mappings are back`;
      }));
      return [day(entry.time), entry.user ?? "anonymous", what, entry.reason, count(entry.mappings), button];
    }), "nothing");
}

async function preview(where) {
  chosen = null;
  byId("quarantine-preview").hidden = true;
  byId("quarantine-done").textContent = "searching, beside lookups; this takes up to 20 seconds …";
  const counts = await command("quarantine", { where, preview: true });
  const found = await command("find", { where, limit: 100 });
  byId("quarantine-done").textContent = "";
  const shared = counts.shared
    ? `; ${count(counts.shared)} outhashes are those of other tasks, too, and would go on giving equivalences` : "";
  byId("quarantine-count").textContent =
    `${count(counts.rows)} rows, ${count(counts.mappings)} mappings, ${count(counts.outhashes)} outhashes${shared}`;
  fill(byId("quarantine-rows"), "What is chosen, the newest 100",
    [["Reported"], ["Recipe"], ["Task"], ["Taskhash"], ["Outhash"], ["Unihash"], ["Owner"]],
    found.rows.map((row) => [
      day(row.created), row.PN ?? "–", row.task ?? "–", whyLink(row), hash(row.outhash),
      row.unihash ? hash(row.unihash) : "nothing", row.owner ?? "–",
    ]), "nothing");
  byId("quarantine-preview").hidden = !counts.rows;
  if (counts.rows) chosen = where;
  else byId("quarantine-done").textContent = "nothing matches";
}

async function begin() {
  const entry = await command("quarantine", { where: chosen, reason: byId("quarantine-reason").value });
  byId("quarantine-preview").hidden = true;
  await list();
  byId("quarantine-done").textContent = `${count(entry.mappings)} mappings are in quarantine`;
}

// Remove what is chosen. The undo file is a dump, as `shardhash load` takes it.
async function discard() {
  const lines = [{ format: "shardhash dump", version: 1 }];
  const counts = { entries: 0, mappings: 0, rows: 0 };
  const seen = new Set();
  try {
    for (;;) {
      const { rows } = await command("find", { where: chosen, limit: AT_ONCE, whole: true });
      const some = rows.filter((row) => row.outhash !== null);
      if (!some.length) break;
      for (const { unihash, gc_mark, siginfo, asked, ...row } of some) {
        const task = `${row.method} ${row.taskhash}`;
        if (unihash !== null && !seen.has(task)) {
          lines.push({ type: "mapping", method: row.method, taskhash: row.taskhash, unihash, gc_mark });
          counts.mappings += 1;
        }
        seen.add(task);
        lines.push({ type: "row", ...row });
        counts.rows += 1;
      }
      await command("discard", { rows: some.map(({ method, taskhash, outhash }) => ({ method, taskhash, outhash })) });
      byId("quarantine-done").textContent = `${count(counts.rows)} rows removed …`;
    }
  } finally {
    lines.push({ type: "end", ...counts });
    const file = new Blob(lines.map((line) => `${JSON.stringify(line)}\n`), { type: "application/jsonl" });
    const name = `shardhash-undo-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.jsonl`;
    byId("quarantine-undo").replaceChildren(element("a", { href: URL.createObjectURL(file), download: name }, "Keep the undo file"));
  }
  byId("quarantine-preview").hidden = true;
  byId("quarantine-done").textContent = `${count(counts.rows)} rows and ${count(counts.mappings)} mappings are removed.`;
}

async function undo(file) {
  const lines = (await file.text()).split("\n").filter(Boolean).map((line) => JSON.parse(line));
  if (lines[0]?.format !== "shardhash dump") throw new Error(`${file.name} is no undo file`);
  const back = { mappings: 0, rows: 0 };
  for (let at = 0; at < lines.length; at += 2 * AT_ONCE) {
    const some = lines.slice(at, at + 2 * AT_ONCE);
    const mappings = some.filter((line) => line.type === "mapping").map(({ method, taskhash, unihash }) => ({ method, taskhash, unihash }));
    const rows = some.filter((line) => line.type === "row").map(({ type, created, ...row }) => ({ ...row, created: microseconds(created) }));
    const answer = await command("import-batch", { mappings, rows });
    for (const kind of ["mappings", "rows"]) back[kind] += answer[kind].filter((one) => one === "new").length;
  }
  byId("quarantine-done").textContent = `${count(back.rows)} rows and ${count(back.mappings)} mappings are back`;
}

// Of ISO 8601 with six digits of a second, of which Date keeps three.
function microseconds(created) {
  const [, digits = ""] = /\.(\d+)/.exec(created) || [];
  return Date.parse(created.replace(/\.\d+/, "")) * 1000 + Number(digits.padEnd(6, "0").slice(0, 6));
}

byId("quarantine-form").addEventListener("submit", (event) => {
  event.preventDefault();
  start(() => preview(filled(event.target)));
});
byId("quarantine-begin").addEventListener("click", () => start(begin));
byId("quarantine-discard").addEventListener("click", () => start(discard));
byId("quarantine-file").addEventListener("change", (event) => start(async () => {
  const [file] = event.target.files;
  if (file) await undo(file);
  event.target.value = "";
}));

export async function showQuarantine(viewer) {
  const may = viewer.permissions.includes("@db-admin") && !viewer.read_only;
  byId("quarantine-tools").hidden = !may;
  byId("quarantine-rights").textContent = may
    ? "" : "You need @db-admin for this, by an address that is not read-only: log in as a user who has it.";
  if (may) await list();
}
