// Starts the page: finds the view of the address, draws it with the frame around it, and keeps the
// store live.

import { get } from "./api.js";
import { forgetResources } from "./data.js";
import { closeDialog, dialogView } from "./dialogs.js";
import { time } from "./format.js";
import { invalidate, invalidateSoon, setDraw } from "./frame.js";
import { restart, tryNow } from "./live.js";
import { clearMessages, messagesView } from "./messages.js";
import { nothing } from "./parts.js";
import { link, parse } from "./route.js";
import { forgetUrls } from "./save.js";
import { forgetAll, token } from "./session.js";
import { clear, onChange, store } from "./store.js";
import { h, render } from "./vdom.js";
import { forgetScroll } from "./windowed.js";
import { address } from "./api.js";
import * as screen from "./screen/view.js";
import * as artifacts from "./views/artifacts.js";
import * as console_ from "./views/console.js";
import * as datastores from "./views/datastores.js";
import * as jobs from "./views/jobs.js";
import * as leases from "./views/leases.js";
import * as machine from "./views/machine.js";
import * as machines from "./views/machines.js";
import * as overview from "./views/overview.js";
import { forgetPages } from "./views/paged.js";
import * as pools from "./views/pools.js";
import * as signIn from "./views/sign_in.js";

const NAV = [
  ["Overview", []],
  ["Machines", ["machines"]],
  ["Jobs", ["jobs"]],
  ["Leases", ["leases"]],
  ["Pools", ["pools"]],
  ["Artifacts", ["artifacts"]],
  ["Datastores", ["datastores"]],
];
const LISTS = { jobs, leases, pools, artifacts, datastores, console: console_, "sign-in": signIn };
const notFound = { title: () => "Not found", view: () => nothing("The page has no such view.") };

let route = parse(location.hash);
let shownPath = null;
/** Whether the store is kept live: not while a console token shows one console alone. */
let isLive = false;

/** The view of an address. */
function viewOf({ path }) {
  const [kind, id, part, ...more] = path;
  if (kind === undefined) return overview;
  if (more.length > 0 || (part !== undefined && kind !== "machines")) return notFound;
  if (kind === "machines") {
    if (id === undefined) return machines;
    if (part === undefined) return machine;
    return part === "screen" ? screen : notFound;
  }
  return LISTS[kind] ?? notFound;
}

function draw() {
  route = parse(location.hash);
  if (route.console) {
    console_.takeToken(route);
    route = parse(location.hash);
  }
  const path = route.path.join("/");
  const isNew = path !== shownPath;
  if (isNew) enter(path);
  const isOut = store.connection === "signed-out" && route.path[0] !== "console";
  const view = isOut ? signIn : viewOf(route);
  const title = view.title(route);
  document.title = `${title} · otter`;
  render(
    document.getElementById("app"),
    h("a", { class: "skip", href: "#main", onclick: skip, key: "skip" }, "Skip to content"),
    header(),
    h(
      "main",
      { id: "main", key: "main" },
      messagesView(),
      h("h1", { id: "title", tabindex: "-1", key: "title" }, title),
      h("div", { key: isOut ? "sign-in" : `view-${path}`, class: "view" }, view.view(route)),
    ),
    dialogView(),
  );
  if (isNew) document.getElementById("title").focus();
}

/** Leaves what the last view opened. */
function enter(path) {
  const wasFirst = shownPath === null;
  shownPath = path;
  forgetResources();
  forgetUrls();
  forgetPages();
  forgetScroll();
  if (!path.endsWith("/screen")) screen.leave();
  if (path !== "console") console_.leave();
  if (path !== "console" && !isLive) {
    isLive = true;
    restart();
  }
  if (!wasFirst) {
    closeDialog();
    scrollTo(0, 0);
  }
}

function skip(event) {
  event.preventDefault();
  document.getElementById("title").focus();
}

function header() {
  const section = route.path[0];
  return h(
    "header",
    { key: "header" },
    h("a", { class: "logo", href: link([]) }, "otter"),
    h(
      "nav",
      { "aria-label": "Main" },
      h(
        "ul",
        { role: "list" },
        NAV.map(([name, path]) =>
          h(
            "li",
            { key: name },
            h("a", { href: link(path), "aria-current": section === path[0] ? "page" : null }, name),
          ),
        ),
        h("li", { key: "API" }, h("a", { href: address("/docs") }, "API")),
      ),
    ),
    h(
      "div",
      { class: "who" },
      h(
        "span",
        { id: "connection", role: "status", "data-state": store.connection },
        connectionText(),
      ),
      h(
        "span",
        { id: "caller" },
        store.about ? `${store.about.caller.name} (${store.about.caller.role})` : "",
      ),
      token() && h("button", { type: "button", onclick: signOut }, "Sign out"),
    ),
  );
}

function connectionText() {
  if (route.path[0] === "console") return "";
  switch (store.connection) {
    case "live":
      return hostIsThere() ? "Live" : "Live; the host is away";
    case "lost":
      return `Connection lost. Showing what was known at ${heard()}; trying again…`;
    case "signed-out":
      return "Signed out";
    default:
      return "Connecting…";
  }
}

const hostIsThere = () => !store.about || store.about.session.state === "connected";

function signOut() {
  forgetAll();
  clear();
  clearMessages();
  store.refused = false;
  restart();
}

/** Pools have no events of their own: they are read again after changes of machines and leases. */
let poolsTimer = 0;
function readPools() {
  if (poolsTimer || store.connection !== "live" || !store.about) return;
  poolsTimer = setTimeout(async () => {
    try {
      store.pools = (await get("/v1/pools")).items;
      invalidateSoon();
    } catch {
      // The stream of events notices a lost connection; pools are read again after it is back.
    } finally {
      poolsTimer = 0;
    }
  }, 1000);
}

onChange((kind) => {
  if (kind === "machines" || kind === "leases" || kind === "connection") readPools();
  invalidateSoon();
});
addEventListener("hashchange", invalidate);
addEventListener("online", tryNow);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) tryNow();
});
// Times such as "3 min ago" grow old.
setInterval(() => {
  if (!document.hidden) invalidateSoon();
}, 10_000);
setDraw(draw);
// A dropped file must not replace the page.
for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());
invalidate();

/** When the last event came. */
function heard() {
  return time(new Date(store.heardAt).toISOString());
}
