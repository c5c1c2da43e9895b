// The picture of a screen on the page of its machine: one look, and a link to the live screen.

import { path } from "../api.js";
import { reload, resource } from "../data.js";
import { actions, loaded, nothing, section } from "../parts.js";
import { link } from "../route.js";
import { forgetUrl, ownedUrl } from "../save.js";
import { h } from "../vdom.js";

export function pictureSection(machine) {
  const key = `picture:${machine.id}`;
  const open = h(
    "p",
    {},
    h("a", { href: link(["machines", machine.id, "screen"]) }, "Open the screen"),
  );
  if (machine.power_state !== "on")
    return section(
      "screen",
      "Screen",
      nothing("The machine is not on, so it shows nothing."),
      open,
    );
  const read = resource(key, async (signal, before) => {
    const options = { lease: machine.lease?.id, query: { width: 640, max_age: "10s" } };
    const url = await ownedUrl(
      `${path("machines", machine.id)}/screen.png`,
      "image/png",
      signal,
      options,
    );
    if (before) forgetUrl(before);
    return url;
  });
  return section(
    "screen",
    "Screen",
    loaded(read, (url) =>
      h("img", { class: "picture", src: url, alt: `The screen of ${machine.name}` }),
    ),
    open,
    actions("picture", [{ label: "Look again", run: () => reload(key) }]),
  );
}
