// A list of any length: only the rows that can be seen exist in the document.

import { invalidate } from "./frame.js";
import { h } from "./vdom.js";

/** Rows beyond the visible ones, so that the keyboard reaches them. */
const MARGIN = 8;
const tops = new Map();
const narrow = matchMedia("(max-width: 48rem)");
narrow.addEventListener("change", invalidate);
addEventListener("resize", invalidate);

/** A list begins at its top when its view is entered. */
export const forgetScroll = () => tops.clear();

/**
 * @param id unique in the view
 * @param label the name of the list
 * @param items objects with an `id`
 * @param row the children of a row: `row(item)`
 * @param heights the heights of a row on wide and on narrow screens, in rem
 */
export function windowed({ id, label, items, row, heights = [2.75, 5], className = "" }) {
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const height = Math.round((narrow.matches ? heights[1] : heights[0]) * rem);
  const visible = Math.ceil(innerHeight / height);
  const top = Math.min(tops.get(id) ?? 0, Math.max(0, items.length * height - 1));
  const first = Math.max(0, Math.floor(top / height) - MARGIN);
  const shown = items.slice(first, first + visible + 2 * MARGIN);
  return h(
    "div",
    {
      key: `window-${id}`,
      class: `window ${className}`,
      tabindex: "0",
      role: "group",
      "aria-label": `${label}, scrolls`,
      style: { "--rows": `${items.length * height}px` },
      onscroll: (event) => {
        tops.set(id, event.target.scrollTop);
        invalidate();
      },
    },
    h(
      "ul",
      { role: "list", "aria-label": label, style: { height: `${items.length * height}px` } },
      shown.map((item, index) =>
        h(
          "li",
          {
            key: item.id,
            class: "row",
            "aria-setsize": items.length,
            "aria-posinset": first + index + 1,
            style: { top: `${(first + index) * height}px`, height: `${height}px` },
          },
          row(item),
        ),
      ),
    ),
  );
}
