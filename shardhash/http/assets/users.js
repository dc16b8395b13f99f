// Users: who there is, what they may do and until when; new ones, new tokens, and the end of one.

import { byId, command, element, fill, moment, tell } from "./tools.js";

async function start(doing) {
  tell("");
  byId("users-done").textContent = "";
  try {
    await doing();
    await list();
  } catch (error) {
    tell(error.message);
  }
}

const button = (text, name, doing) => {
  const made = element("button", { type: "button", "aria-label": `${text} of ${name}` }, text);
  made.addEventListener("click", () => start(doing));
  return made;
};

function showToken(name, token) {
  byId("users-done").replaceChildren(`The token of ${name}, which cannot be shown again: `, element("code", {}, token));
}

const when = (text) => (text ? moment(Date.parse(text) / 1000) : "never");

const lifetime = (days) => (days ? { expires_in: Math.ceil(days * 86400) } : {});

async function list() {
  const { users } = await command("list-users", {});
  const head = [["Name"], ["Permissions"], ["Token expires"], ["Last used"], ["Token"], ["End"]];
  fill(byId("users-list"), "All users", head, users.map(({ username, permissions, expires, used }) => [
    username,
    permissions.join(" ") || "none",
    expires && new Date(expires) <= new Date() ? `${when(expires)}: expired` : when(expires),
    when(used),
    button("New token", username, async () => showToken(username, (await command("refresh-token", { username })).token)),
    button("Delete", username, async () => {
      if (confirm(`Delete the user ${username}? Its token stops working at once.`)) await command("delete-user", { username });
    }),
  ]), "nobody");
  return users;
}

byId("users-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  start(async () => {
    const username = form.username.value;
    const permissions = [...form.querySelectorAll("input:checked")].map((box) => box.name);
    const known = (await list()).some((user) => user.username === username);
    const days = known ? 0 : Number(form.days.value);
    const answer = await command(known ? "set-user-perms" : "new-user", { username, permissions, ...lifetime(days) });
    if (answer.token) showToken(username, answer.token);
    else byId("users-done").textContent = `${username} holds ${answer.permissions.join(" ") || "nothing"} now`;
    form.reset();
  });
});

export async function showUsers(viewer) {
  const may = viewer.permissions.includes("@user-admin") && !viewer.read_only;
  byId("users-tools").hidden = !may;
  byId("users-rights").textContent = may
    ? "" : "You need @user-admin for this, by an address that is not read-only: log in as a user who has it.";
  if (may) await list();
}
