// A small virtual DOM: `h` describes elements, and `patch` makes the document equal to the
// description. Text is only ever set as text, so nothing that a host sends can become HTML.

const LISTENERS = Symbol("listeners");
const PROPERTIES = new Set(["value", "checked", "selected", "open", "indeterminate"]);

/**
 * Describes an element.
 *
 * Props: `key` (identity among siblings), `on<event>` (listeners), `style` (an object), `oncreate`
 * and `onremove` (called with the element), `own` (true: the children are not touched after
 * creation); all others are properties or attributes. `null`, `undefined` and `false` leave an
 * attribute out, `true` sets it empty.
 */
export function h(tag, props, ...children) {
  const { key, ...rest } = props ?? {};
  return { tag, key, props: rest, children: flat(children, []) };
}

function flat(children, out) {
  for (const child of children) {
    if (Array.isArray(child)) flat(child, out);
    else if (child !== null && child !== undefined && child !== false && child !== true) {
      out.push(typeof child === "object" ? child : { text: String(child) });
    }
  }
  return out;
}

/** Makes the children of `parent` equal to `children`. The root calls it for each frame. */
export function render(parent, ...children) {
  const next = flat(children, []);
  patchChildren(parent, parent[LISTENERS]?.rendered ?? [], next);
  parent[LISTENERS] = { ...parent[LISTENERS], rendered: next };
}

function create(node) {
  if (node.text !== undefined) {
    node.element = document.createTextNode(node.text);
    return node.element;
  }
  const element = document.createElement(node.tag);
  node.element = element;
  for (const [name, value] of Object.entries(node.props)) setProp(element, name, undefined, value);
  for (const child of node.children) element.append(create(child));
  // The value of a select depends on its options, which exist only from here on.
  if (node.tag === "select" && node.props.value !== undefined) element.value = node.props.value;
  if (node.props.oncreate) queueMicrotask(() => node.props.oncreate(element));
  return element;
}

function setProp(element, name, before, after) {
  if (name === "oncreate" || name === "onremove" || name === "own") return;
  if (name === "style") {
    for (const property of Object.keys(before ?? {})) {
      if (!(property in (after ?? {}))) element.style.removeProperty(property);
    }
    for (const [property, value] of Object.entries(after ?? {})) {
      if (before?.[property] !== value) element.style.setProperty(property, value);
    }
  } else if (name.startsWith("on")) {
    setListener(element, name.slice(2), after);
  } else if (before === after) {
    // Unchanged: what a person typed into an input stays.
  } else if (PROPERTIES.has(name) && !(name === "value" && element.localName === "option")) {
    const value = after ?? (name === "value" ? "" : false);
    if (element[name] !== value) element[name] = value;
  } else if (after === null || after === undefined || after === false) {
    element.removeAttribute(name);
  } else {
    element.setAttribute(name, after === true ? "" : String(after));
  }
}

function setListener(element, type, handler) {
  const listeners = (element[LISTENERS] ??= {});
  if (!(type in listeners)) {
    const passive = type === "wheel" || type === "touchmove" ? { passive: false } : undefined;
    element.addEventListener(type, (event) => element[LISTENERS][type]?.(event), passive);
  }
  listeners[type] = handler;
}

function patch(old, next) {
  const element = old.element;
  next.element = element;
  if (next.text !== undefined) {
    if (old.text !== next.text) element.data = next.text;
    return;
  }
  for (const name of Object.keys(old.props)) {
    if (!(name in next.props)) setProp(element, name, old.props[name], undefined);
  }
  if (!next.props.own) patchChildren(element, old.children, next.children);
  for (const [name, value] of Object.entries(next.props)) {
    setProp(element, name, old.props[name], value);
  }
}

const fits = (old, next) => old.tag === next.tag && old.key === next.key;

function patchChildren(parent, old, next) {
  const keyed = new Map();
  for (const node of old) if (node.key !== undefined) keyed.set(node.key, node);
  const reused = new Set();
  let position = 0;
  let cursor = parent.firstChild;
  for (const node of next) {
    let match;
    if (node.key !== undefined) {
      match = keyed.get(node.key);
      if (match && (match.tag !== node.tag || reused.has(match))) match = undefined;
    } else {
      while (
        position < old.length &&
        (old[position].key !== undefined || reused.has(old[position]))
      ) {
        position += 1;
      }
      if (position < old.length && fits(old[position], node)) match = old[position];
      if (position < old.length) position += 1;
    }
    if (match) {
      reused.add(match);
      patch(match, node);
    } else {
      create(node);
    }
    // Elements that stay in their place are not moved: a move would take their focus.
    while (cursor && cursor !== node.element && !reusable(cursor, old, reused, next)) {
      cursor = drop(cursor, old, reused);
    }
    if (node.element === cursor) cursor = cursor.nextSibling;
    else parent.insertBefore(node.element, cursor);
  }
  for (const node of old) if (!reused.has(node)) remove(node);
}

/** Whether the element at the cursor belongs to a node that may still be used. */
function reusable(element, old, reused, next) {
  const node = old.find((candidate) => candidate.element === element);
  if (!node || reused.has(node)) return true;
  return node.key === undefined || next.some((other) => other.key === node.key);
}

function drop(element, old, reused) {
  const node = old.find((candidate) => candidate.element === element);
  const following = element.nextSibling;
  reused.add(node);
  remove(node);
  return following;
}

function remove(node) {
  removed(node);
  node.element.remove();
}

function removed(node) {
  if (node.text !== undefined) return;
  node.props.onremove?.(node.element);
  node.children.forEach(removed);
}
