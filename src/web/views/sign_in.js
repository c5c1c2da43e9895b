// Asks for a token, which stays in this tab.

import { invalidate } from "../frame.js";
import { restart } from "../live.js";
import { problemView, section } from "../parts.js";
import { setToken } from "../session.js";
import { store } from "../store.js";
import { h } from "../vdom.js";

export const title = () => "Sign in";

export function view() {
  const signIn = (event) => {
    event.preventDefault();
    const text = event.target.elements.token.value.trim();
    if (text === "") return;
    setToken(text);
    restart();
    invalidate();
  };
  const problem = store.connectionProblem;
  return h(
    "div",
    { class: "columns" },
    section(
      "token",
      "Your token",
      h(
        "p",
        {},
        "This otter wants a token: ask who runs it. They make one with ",
        h("code", {}, "otter token create"),
        ". It stays in this tab.",
      ),
      // The first problem only says that there is no token yet.
      problem && store.refused && problemView(problem),
      h(
        "form",
        { onsubmit: signIn },
        h(
          "div",
          { class: "field" },
          h("label", { for: "token" }, "Token"),
          h("input", {
            id: "token",
            name: "token",
            type: "password",
            autocomplete: "off",
            spellcheck: "false",
            required: true,
            placeholder: "otter_…",
          }),
        ),
        h(
          "div",
          { class: "buttons" },
          h("button", { type: "submit", class: "primary" }, "Sign in"),
        ),
      ),
    ),
  );
}
