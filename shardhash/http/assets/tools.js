// What every view uses: texts as text, numbers, times, tables, and questions to the server.

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children); // strings become text, whatever they hold
  return made;
}

export const byId = (id) => document.getElementById(id);

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (value) => whole.format(value);
export const brief = (value) => (Math.abs(value) >= 1000 ? whole.format(value) : short.format(value));
export const percent = (part, all) => (all ? `${short.format((100 * part) / all)} %` : "–");

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${short.format(value)} ${units[unit]}`;
}

export function ago(seconds) {
  if (seconds < 0.5) return "now";
  if (seconds < 120) return `${Math.round(seconds)} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

export const moment = (seconds) => new Date(seconds * 1000).toISOString().replace("T", " ").slice(0, 19) + " UTC";

// A table with a row of headings; `columns` are [heading, numeric?]. Cells are texts or elements.
export function fill(table, caption, columns, rows, none) {
  const heads = columns.map(([text, numeric]) => element("th", { scope: "col", class: numeric ? "number" : "" }, text));
  const body = rows.map((cells) =>
    element("tr", {}, ...cells.map((cell, at) => element("td", { class: columns[at][1] ? "number" : "" }, cell))),
  );
  if (!rows.length) body.push(element("tr", {}, element("td", { colSpan: columns.length }, none)));
  table.replaceChildren(
    element("caption", { class: "unseen" }, caption),
    element("thead", {}, element("tr", {}, ...heads)),
    element("tbody", {}, ...body),
  );
}

export function list(target, pairs) {
  target.replaceChildren(...pairs.flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, text)]));
}

// The JSON that a path answers; an Error with the server's words, and `status`, when it refuses.
export async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const answer = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  const value = await answer.json().catch(() => ({}));
  if (answer.ok) return value;
  const error = new Error(value.error || `the server answered ${answer.status}`);
  error.status = answer.status;
  throw error;
}

// A command of the protocol, with the rights of the viewer.
export const command = (name, fields) => ask("api/ask", { [name]: fields });

// The fields of a form that hold something.
export function filled(form) {
  const found = {};
  for (const [name, value] of new FormData(form)) if (value.trim()) found[name] = value.trim();
  return found;
}

export const whyLink = (row, text) =>
  element("a", { href: `#why/${encodeURIComponent(row.method)}/${encodeURIComponent(row.taskhash)}`, class: "hash", title: row.taskhash },
    text || row.taskhash.slice(0, 16));

export const compareHref = (one, other) =>
  `#compare/${[one.method, one.taskhash, one.outhash, other.method, other.taskhash, other.outhash].map(encodeURIComponent).join("/")}`;

export const hash = (text) => element("span", { class: "hash", title: text || "" }, text ? text.slice(0, 16) : "–");

export const day = (created) => (created ? created.slice(0, 19).replace("T", " ") : "–");

export function counted(found, what) {
  const more = found.complete ? "" : " at least: the search was cut off, narrow it";
  return `${count(found.count)} ${what}${more}`;
}

export function tell(text) {
  byId("trouble").textContent = text;
  byId("trouble").hidden = !text;
}
