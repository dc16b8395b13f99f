// The page: which view is shown, and who looks at it.

import { showCompare } from "./compare.js";
import { showDiverging, showSaved } from "./diverging.js";
import { showWhy } from "./explore.js";
import { follow, unfollow } from "./now.js";
import { showQuarantine } from "./quarantine.js";
import { ask, byId, tell } from "./tools.js";
import { showUsers } from "./users.js";

const views = [...document.querySelectorAll("main > section")];
const shown = { why: showWhy, compare: showCompare, diverging: showDiverging, saved: showSaved, quarantine: () => showQuarantine(viewer), users: () => showUsers(viewer) };
let viewer = { user: null, permissions: [] };

function choose() {
  const [wanted, ...rest] = location.hash.slice(1).split("/").map(decodeURIComponent);
  const view = views.find((one) => one.id === wanted) || views[0];
  if (wanted === "main") return;
  for (const one of views) one.hidden = one !== view;
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.hash === `#${view.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (shown[view.id] && viewer.permissions.includes("@read")) {
    tell("");
    start(() => shown[view.id](...rest));
  }
}

async function look() {
  viewer = await ask("api/viewer");
  byId("who").textContent = viewer.user ?? "not logged in";
  byId("login-open").textContent = viewer.user === null ? "Log in" : "Log out";
  if (viewer.permissions.includes("@read")) {
    tell("");
    choose();
    await follow();
  } else {
    unfollow();
    byId("well").textContent = "";
    tell("You need @read to see anything here: log in.");
  }
}

async function start(doing) {
  try {
    await doing();
  } catch (error) {
    tell(error.message);
  }
}

byId("login-open").addEventListener("click", () => {
  if (viewer.user === null) {
    byId("login-trouble").textContent = "";
    byId("login").showModal();
  } else {
    start(async () => {
      await ask("api/logout", {});
      location.reload(); // nothing that the user saw stays
    });
  }
});
byId("login-close").addEventListener("click", () => byId("login").close());
byId("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  try {
    await ask("api/login", { username: form.username.value, token: form.token.value });
  } catch (error) {
    byId("login-trouble").textContent = error.message;
    return;
  }
  form.reset();
  byId("login").close();
  await start(look);
});
addEventListener("hashchange", choose);
choose();
start(look);
