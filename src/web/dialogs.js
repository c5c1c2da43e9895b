// One dialog at a time: a question or a form, with the problem of its last attempt inside.

import { problemOf } from "./api.js";
import { invalidate } from "./frame.js";
import { problemView } from "./parts.js";
import { h } from "./vdom.js";

const OVERRIDE_EFFECT =
  "Another caller holds this machine. otter records the reason, and the holder sees a warning.";

/** The field of a dialog that changes a machine which another caller holds. */
export const OVERRIDE_FIELD = {
  name: "override",
  label: "Reason for the override",
  required: true,
  help: OVERRIDE_EFFECT,
};

let open = null;
let count = 0;

/**
 * Opens a dialog.
 *
 * @param options `{title, text, fields, confirm, danger, submit}`. `fields` are
 *   `{name, label, type, value, help, options, required, placeholder}`; `submit(values)` does the
 *   work, and the dialog closes unless it fails.
 */
export function openDialog(options) {
  count += 1;
  open = { ...options, id: count, problem: null, working: false };
  invalidate();
}

export function closeDialog() {
  open = null;
  invalidate();
}

/** The open dialog, for the root of the page. */
export function dialogView() {
  if (!open) return null;
  const { id, title, text, fields = [], confirm, danger, problem, working } = open;
  return h(
    "dialog",
    {
      key: `dialog-${id}`,
      "aria-labelledby": "dialog-title",
      oncreate: (element) => {
        if (!element.open) element.showModal();
      },
      // The browser gives the focus back to the element that had it before.
      onremove: (element) => element.close(),
      oncancel: (event) => {
        event.preventDefault();
        closeDialog();
      },
    },
    h(
      "form",
      { method: "dialog", onsubmit: submit, autocomplete: "off" },
      h("h2", { id: "dialog-title" }, title),
      [].concat(text ?? []).map((line) => h("p", {}, line)),
      h(
        "div",
        { class: fields.length > 4 ? "fields" : "" },
        fields.map((field, index) => fieldView(field, index === 0)),
      ),
      problem && problemView(problem),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", onclick: closeDialog }, "Cancel"),
        h(
          "button",
          {
            type: "submit",
            class: danger ? "danger primary" : "primary",
            "aria-disabled": working ? "true" : null,
            autofocus: fields.length === 0 && !danger ? true : null,
          },
          working ? `${confirm}…` : confirm,
        ),
      ),
    ),
  );
}

function fieldView(field, first) {
  const { name, label, type = "text", value, help, options, required, placeholder } = field;
  const common = {
    id: `field-${name}`,
    name,
    required: required ?? null,
    autofocus: first ? true : null,
    "aria-describedby": help ? `help-${name}` : null,
  };
  const label_ = h("label", { for: common.id }, label);
  const note = help && h("p", { class: "help", id: `help-${name}` }, help);
  if (type === "checkbox") {
    return h(
      "div",
      { class: "field check" },
      h("input", { ...common, type, checked: value ?? false }),
      label_,
      note,
    );
  }
  let input;
  if (type === "select") {
    input = h(
      "select",
      common,
      options.map((option) =>
        h(
          "option",
          { value: option.value, selected: option.value === (value ?? "") },
          option.label,
        ),
      ),
    );
  } else if (type === "textarea") {
    input = h("textarea", { ...common, rows: 6, value: value ?? "", spellcheck: "false" });
  } else {
    input = h("input", {
      ...common,
      type,
      value: value ?? "",
      placeholder: placeholder ?? null,
      spellcheck: "false",
    });
  }
  return h("div", { class: "field" }, label_, input, note);
}

async function submit(event) {
  event.preventDefault();
  const current = open;
  if (!current || current.working) return;
  const values = {};
  for (const { name, type } of current.fields ?? []) {
    const input = event.target.elements[name];
    values[name] = type === "checkbox" ? input.checked : input.value;
  }
  current.working = true;
  current.problem = null;
  invalidate();
  try {
    await current.submit(values);
    if (open === current) closeDialog();
  } catch (error) {
    current.problem = problemOf(error);
  } finally {
    current.working = false;
    invalidate();
  }
}
