// Tasks that are not reproducible, and tasks that reused another's output.

import { byId, command, compareHref, count, counted, day, element, fill, filled, hash, tell, whyLink } from "./tools.js";

async function search(where) {
  byId("diverging-count").textContent = "searching, beside lookups; this takes up to 20 seconds …";
  const found = await command("diverging", { where, limit: 100 });
  byId("diverging-count").textContent = counted(found, "tasks have more than one outhash");
  fill(byId("diverging-recipes"), "By recipe", [["Recipe"], ["Tasks", true]],
    found.recipes.map(([recipe, number]) => [recipe || "(none)", count(number)]), "none");
  fill(byId("diverging-tasks"), "Diverging tasks, newest first",
    [["Newest"], ["Recipe"], ["Task"], ["Taskhash"], ["Outhashes"], ["Compare"]],
    found.tasks.map((rows) => {
      const [older, newest] = rows.slice(-2);
      const outhashes = rows.flatMap((row, at) => (at ? [" ", hash(row.outhash)] : [hash(row.outhash)]));
      const link = older.siginfo && newest.siginfo
        ? element("a", { href: compareHref(older, newest), "aria-label": `compare the outputs of ${newest.taskhash}` }, "compare") : "no siginfo";
      return [day(newest.created), newest.PN ?? "–", newest.task ?? "–", whyLink(newest), element("span", {}, ...outhashes), link];
    }), "none");
}

async function start(where) {
  try {
    await search(where);
  } catch (error) {
    byId("diverging-count").textContent = "";
    tell(error.message);
  }
}

byId("diverging-form").addEventListener("submit", (event) => {
  event.preventDefault();
  tell("");
  start(filled(event.target));
});

export const showDiverging = () => start(filled(byId("diverging-form")));

export async function showSaved() {
  byId("saved-count").textContent = "counting, beside lookups; this takes up to 20 seconds …";
  const since = new Date(Date.now() - 365 * 86400e3).toISOString().slice(0, 10);
  const { saved } = await command("saved", { since });
  byId("saved-count").textContent = `${count(saved.reduce((sum, item) => sum + item.count, 0))} tasks in a year`;
  fill(byId("saved-rows"), "Saved by recipe and week", [["Week of"], ["Recipe"], ["Tasks", true]],
    saved.slice(0, 1000).map((item) => [item.week, item.PN ?? "(none)", count(item.count)]), "none");
}
