// The page: which view is shown, and who looks at it.

import { follow, unfollow } from "./now.js";
import { ask, byId, tell } from "./tools.js";

const views = [...document.querySelectorAll("main > section")];
let viewer = { user: null, permissions: [] };

function choose() {
  const wanted = location.hash.slice(1).split("/")[0];
  const view = views.find((one) => one.id === wanted) || views[0];
  if (wanted === "main") return;
  for (const one of views) one.hidden = one !== view;
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.hash === `#${view.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function look() {
  viewer = await ask("api/viewer");
  byId("who").textContent = viewer.user ?? "not logged in";
  byId("login-open").textContent = viewer.user === null ? "Log in" : "Log out";
  if (viewer.permissions.includes("@read")) {
    tell("");
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
