// Shows openapi.json: the operations by tag, each with a curl line to copy, the schemas, and the
// problem codes. Inserts text of the document only as text, never as HTML.
"use strict";

const METHODS = ["get", "put", "post", "patch", "delete", "head", "options", "trace"];
const BOUNDS = {
  minimum: "at least", maximum: "at most", exclusiveMinimum: "more than", exclusiveMaximum: "less than",
  minLength: "least length", maxLength: "greatest length", minItems: "least items", maxItems: "most items",
  pattern: "pattern",
};
// The address of this otter: the page is at its path /docs, perhaps behind a proxy with a path.
const BASE = new URL(".", location.href).href.replace(/\/$/, "");
const byId = (id) => document.getElementById(id);
let api = {};

start();

async function start() {
  try {
    const answer = await fetch("openapi.json", { headers: { accept: "application/json" } });
    if (!answer.ok) throw new Error(`it answered ${answer.status}`);
    api = await answer.json();
    show();
  } catch (error) {
    byId("content").replaceChildren(
      element("p", { class: "failure" }, `openapi.json cannot be shown: ${error.message}. `,
        element("a", { href: "" }, "Try again")));
  }
}

function show() {
  const groups = operationsByTag();
  const index = [];
  const content = [introduction()];
  for (const [tag, operations] of groups) {
    const described = (api.tags ?? []).find((other) => other.name === tag);
    index.push(element("div", { class: "group" }, element("h4", {}, tag), operations.map(indexEntry)));
    content.push(element("section", { class: "group" },
      element("h2", {}, tag), markdown(described?.description), operations.map(operationCard)));
  }
  const schemas = Object.entries(api.components?.schemas ?? {}).sort(([one], [other]) => one.localeCompare(other));
  if (schemas.length > 0) {
    index.push(element("div", { class: "group" }, element("h4", {}, "Schemas"), schemas.map(([name]) =>
      element("a", { href: `#schema-${name}`, "data-text": `schema ${name}`.toLowerCase() }, element("span", {}, name)))));
    content.push(element("section", { class: "group" }, element("h2", {}, "Schemas"), schemas.map(schemaCard)));
  }
  const codes = [...new Set([...groups.values()].flat().flatMap(({ operation }) => operation["x-otter-problems"] ?? []))];
  if (codes.length > 0) {
    content.push(element("section", {}, element("h2", { id: "problems" }, "Problem codes"),
      element("p", {}, "Every failure carries one of these, and its page says what to do. All of them: ",
        element("a", { href: "problems/" }, "the catalogue"), "."),
      problemCodes(codes.sort())));
  }
  byId("index").replaceChildren(...index);
  byId("content").replaceChildren(...content);
  listen();
}

function operationsByTag() {
  const groups = new Map((api.tags ?? []).map((tag) => [tag.name, []]));
  for (const [path, item] of Object.entries(api.paths ?? {})) {
    for (const method of METHODS.filter((method) => item[method])) {
      const operation = item[method];
      const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map(resolve);
      const tag = operation.tags?.[0] ?? "other";
      if (!groups.has(tag)) groups.set(tag, []);
      const id = operation.operationId ?? `${method}-${path.replaceAll(/\W+/g, "-")}`;
      groups.get(tag).push({ id, path, method, operation, parameters });
    }
  }
  return new Map([...groups].filter(([, operations]) => operations.length > 0));
}

function introduction() {
  const { title, version, description, license } = api.info ?? {};
  return element("section", {},
    element("h1", {}, title ?? "API", " ", element("span", { class: "dim" }, version ?? "")),
    markdown(description),
    element("p", { class: "dim" },
      "The document: ", element("a", { href: "openapi.json" }, `OpenAPI ${api.openapi}`), " · ",
      element("a", { href: "openapi-3.0.json" }, "OpenAPI 3.0"), " · ",
      element("a", { href: "problems/" }, "problems"), license ? ` · licence: ${license.name}` : ""));
}

function indexEntry({ id, path, method, operation }) {
  return element("a", { href: `#${id}`, "data-text": searchText(id, path, method, operation), title: operation.summary },
    element("span", { class: `method ${method}` }, method), element("span", {}, path));
}

function searchText(id, path, method, operation) {
  const words = [id, path, method, operation.summary, operation.description, ...(operation.tags ?? []),
    ...(operation["x-otter-problems"] ?? [])];
  return words.filter(Boolean).join(" ").toLowerCase();
}

function operationCard({ id, path, method, operation, parameters }) {
  const body = resolve(operation.requestBody);
  const codes = operation["x-otter-problems"] ?? [];
  return element("article", {
    id, class: operation.deprecated ? "card deprecated" : "card", "data-text": searchText(id, path, method, operation),
  },
    element("div", { class: "head" },
      element("span", { class: `method ${method}` }, method), element("code", {}, path),
      element("a", { class: "anchor", href: `#${id}` }, `# ${id}`)),
    element("p", { class: "summary" }, operation.summary ?? "", operation.deprecated ? " (deprecated)" : ""),
    markdown(operation.description),
    curl(path, method, operation, parameters, body),
    parameters.length > 0 && [element("h4", {}, "Parameters"), parameterTable(parameters)],
    body && [element("h4", {}, body.required === false ? "Body (may be left out)" : "Body"),
      markdown(body.description), contents(body.content)],
    element("h4", {}, "Answers"), answers(operation.responses ?? {}),
    codes.length > 0 && [element("h4", {}, "Problem codes"), problemCodes(codes)]);
}

function parameterTable(parameters) {
  const rows = parameters.map(({ name, in: where, required, description, schema, deprecated }) => element("tr", {},
    element("td", { class: "name" }, element("code", {}, name), required && [" ", element("span", { class: "need" }, "required")]),
    element("td", { class: "type" }, where), element("td", { class: "type" }, typeOf(schema)),
    element("td", {}, markdown(description), deprecated && element("p", { class: "dim" }, "deprecated"), facts(schema))));
  return element("table", {}, element("tbody", {}, rows));
}

function answers(responses) {
  const rows = Object.entries(responses).map(([status, reference]) => {
    const response = resolve(reference);
    const headers = Object.entries(response.headers ?? {}).map(([name, header]) =>
      element("p", {}, element("code", {}, name), " ", inline(resolve(header).description)));
    return element("tr", {}, element("td", { class: "status" }, status),
      element("td", {}, markdown(response.description), headers, contents(response.content)));
  });
  return element("table", {}, element("tbody", {}, rows));
}

function contents(content) {
  return Object.entries(content ?? {}).map(([type, { schema }]) =>
    element("div", { class: "media" }, element("span", { class: "dim" }, type), schema && schemaTree(schema)));
}

function problemCodes(codes) {
  return element("div", { class: "codes" }, codes.map((code) =>
    element("a", { href: `problems/${code}` }, element("code", {}, code))));
}

// --- Schemas: a reference is opened on demand, because references can be circular.

function schemaCard([name, schema]) {
  return element("article", { id: `schema-${name}`, class: "card", "data-text": `schema ${name}`.toLowerCase() },
    element("div", { class: "head" }, element("code", {}, name),
      element("a", { class: "anchor", href: `#schema-${name}` }, "#")),
    markdown(schema.description), fields(schema) ?? element("div", { class: "type" }, typeOf(schema)), facts(schema));
}

function schemaTree(schema) {
  const target = fieldsOf(schema);
  return target ? opened(typeOf(schema), () => fields(target)) : element("span", { class: "type" }, typeOf(schema));
}

function opened(title, make) {
  const inner = element("div", {});
  const details = element("details", {}, element("summary", {}, title), inner);
  details.addEventListener("toggle", () => { if (!inner.firstChild) inner.append(make()); });
  return details;
}

// The schema with properties: this one, an alternative in it, or its items.
function fieldsOf(schema) {
  const target = resolve(schema);
  if (!target || typeof target !== "object") return null;
  if (target.properties) return target;
  const inner = [target.items, target.additionalProperties, ...(target.oneOf ?? []), ...(target.anyOf ?? []), ...(target.allOf ?? [])];
  for (const candidate of inner) {
    const found = candidate && typeof candidate === "object" ? fieldsOf(candidate) : null;
    if (found) return found;
  }
  return null;
}

function fields(schema) {
  if (!schema.properties) return null;
  const rows = Object.entries(schema.properties).map(([name, property]) => element("tr", {},
    element("td", { class: "name" }, element("code", {}, name), !(schema.required ?? []).includes(name) && [" ", element("span", { class: "may" }, "optional")]),
    element("td", {}, schemaTree(property), markdown(descriptionOf(property)), facts(property))));
  return element("table", {}, element("tbody", {}, rows));
}

function descriptionOf(schema) {
  return schema.description ?? alternativesOf(schema)[0]?.description ?? resolve(schema)?.description;
}

function alternativesOf(schema) {
  return (schema.oneOf ?? schema.anyOf ?? []).filter((alternative) => alternative.type !== "null");
}

function typeOf(schema) {
  if (schema === undefined || schema === true) return "anything";
  if (schema.$ref) return nameOf(schema.$ref);
  const alternatives = schema.oneOf ?? schema.anyOf ?? schema.allOf;
  if (alternatives) return [...new Set(alternatives.map(typeOf).concat(schema.nullable ? "null" : []))].sort(nullLast).join(" or ");
  const types = [schema.type ?? (schema.properties ? "object" : "anything")].flat();
  const text = types.map((type) => {
    if (type === "array") return `list of ${typeOf(schema.items)}`;
    if (type === "object" && schema.additionalProperties && schema.additionalProperties !== true) {
      return `map of ${typeOf(schema.additionalProperties)}`;
    }
    return schema.format && type !== "null" ? `${type} (${schema.format})` : type;
  });
  return text.sort(nullLast).join(" or ");
}

function nullLast(one, other) {
  return (one === "null") - (other === "null");
}

// The other facts about a value, or about each value of a list.
function facts(schema) {
  const list = factsOf(schema);
  return list.length > 0 && element("div", { class: "dim" },
    list.map((fact, index) => [index > 0 && " · ", fact]));
}

function factsOf(schema) {
  const target = resolve(schema);
  if (!target || typeof target !== "object") return [];
  const list = [];
  const values = (all) => all.filter((value) => value !== null)
    .map((value) => [" ", element("code", {}, String(value))]);
  const closed = target.enum ?? (target.const === undefined ? null : [target.const]);
  if (closed) list.push(["one of", values(closed)]);
  const open = target["x-extensible-enum"];
  if (open) list.push(["for now one of", values(open)]);
  if (target.default !== undefined) {
    list.push(["default ", element("code", {}, JSON.stringify(target.default))]);
  }
  for (const [key, words] of Object.entries(BOUNDS)) {
    if (target[key] === undefined) continue;
    list.push([`${words} `, element("code", {}, String(target[key]))]);
  }
  const inner = target.items ?? alternativesOf(target)[0];
  return inner && !fieldsOf(inner) ? list.concat(factsOf(inner)) : list;
}

function resolve(value) {
  let target = value;
  for (let step = 0; step < 8 && target?.$ref?.startsWith("#/"); step += 1) {
    const parts = target.$ref.slice(2).split("/").map((part) => decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~"));
    target = parts.reduce((place, part) => place?.[part], api);
  }
  return target;
}

function nameOf(reference) {
  return reference.slice(reference.lastIndexOf("/") + 1);
}

// --- A line for a shell: required values are in capitals unless the document has an example.

function curl(path, method, operation, parameters, body) {
  const required = parameters.filter((parameter) => parameter.required);
  const named = (name) => required.find((one) => one.name === name);
  const address = path.replaceAll(/\{(\w+)\}/g, (_, name) => sample(named(name), name));
  const query = required.filter((one) => one.in === "query")
    .map((one) => `${one.name}=${sample(one, one.name)}`).join("&");
  const parts = ["curl --fail-with-body"];
  if (method !== "get") parts.push(`-X ${method.toUpperCase()}`);
  parts.push(quoted(BASE + address + (query && `?${query}`)));
  const security = operation.security ?? api.security ?? [];
  if (security.length > 0 && security.every((one) => Object.keys(one).length > 0)) {
    parts.push('-H "Authorization: Bearer $OTTER_TOKEN"');
  }
  for (const header of required.filter((one) => one.in === "header")) {
    parts.push(`-H ${quoted(`${header.name}: ${sample(header, header.name)}`)}`);
  }
  const media = Object.entries(body?.content ?? {})[0];
  if (media) {
    parts.push(`-H ${quoted(`Content-Type: ${media[0]}`)}`, `-d ${quoted(JSON.stringify(exampleOf(media[1])))}`);
  }
  const line = parts.join(" ");
  const button = element("button", { type: "button" }, "Copy");
  button.addEventListener("click", () => copy(line, button));
  return element("div", { class: "curl" }, element("pre", {}, line), button);
}

function sample(parameter, name) {
  const schema = resolve(parameter?.schema);
  const value = parameter?.example ?? schema?.example ?? schema?.examples?.[0] ?? schema?.default ?? schema?.enum?.[0];
  return value === undefined ? name.toUpperCase() : String(value);
}

function exampleOf({ example, examples, schema }) {
  return example ?? Object.values(examples ?? {})[0]?.value ?? made(schema, 0);
}

// A small example: the required fields, or all fields if none is required.
function made(schema, depth) {
  const target = resolve(schema);
  if (!target || typeof target !== "object" || depth > 5) return null;
  const known = target.example ?? target.examples?.[0] ?? target.default ?? target.const ?? target.enum?.[0];
  if (known !== undefined) return known;
  const inner = alternativesOf(target)[0] ?? target.allOf?.[0];
  if (inner) return made(inner, depth + 1);
  switch ([target.type ?? "object"].flat().find((type) => type !== "null")) {
    case "string": return "…";
    case "integer": case "number": return target.minimum ?? 0;
    case "boolean": return true;
    case "array": return target.items ? [made(target.items, depth + 1)] : [];
    default: {
      const names = target.required?.length > 0 ? target.required : Object.keys(target.properties ?? {});
      return Object.fromEntries(names.map((name) => [name, made(target.properties?.[name], depth + 1)]));
    }
  }
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // Without TLS, only pages of localhost can use the clipboard: select the line instead.
    getSelection().selectAllChildren(button.previousSibling);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

// --- The filter, deep links, and the current position.

function listen() {
  const filter = byId("filter");
  filter.addEventListener("input", applyFilter);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && event.target !== filter && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      filter.focus();
    } else if (event.key === "Escape" && event.target === filter) {
      filter.value = "";
      applyFilter();
    }
  });
  addEventListener("hashchange", follow);
  const links = new Map([...document.querySelectorAll("#index a")].map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((entry) => entry.isIntersecting)) {
      document.querySelector("#index a.here")?.classList.remove("here");
      links.get(entry.target.id)?.classList.add("here");
    }
  }, { rootMargin: "0px 0px -75% 0px" });
  document.querySelectorAll(".card").forEach((card) => watcher.observe(card));
  applyFilter();
  follow();
}

function applyFilter() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const item of document.querySelectorAll("[data-text]")) {
    item.hidden = !words.every((word) => item.dataset.text.includes(word));
    if (!item.hidden && item.matches("a")) count += 1;
  }
  for (const group of document.querySelectorAll(".group")) {
    group.hidden = !group.querySelector("[data-text]:not([hidden])");
  }
  byId("count").textContent = words.length > 0 ? `${count} of ${document.querySelectorAll("#index a").length}` : "";
}

// The browser looked for the anchor before it existed, and the filter may hide it.
function follow() {
  const target = byId(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.closest("[hidden]")) {
    byId("filter").value = "";
    applyFilter();
  }
  target.scrollIntoView();
}

// --- Elements.

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) made.setAttribute(name, value);
  }
  const flat = children.flat(Infinity);
  made.append(...flat.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

// The Markdown that descriptions use: paragraphs, lists, code and bold.
function markdown(text) {
  return (text ?? "").split(/\n{2,}/).filter((block) => block.trim()).map((block) => {
    const items = block.trim().split(/\n(?=\s*[-*] )/).filter(Boolean);
    const isItem = (line) => /^\s*[-*] /.test(line);
    const lead = items.filter((line) => !isItem(line)).map((line) => element("p", {}, inline(line)));
    const list = items.filter(isItem).map((line) => element("li", {}, inline(line.replace(/^\s*[-*] /, ""))));
    return [lead, list.length > 0 && element("ul", {}, list)];
  });
}

function inline(text) {
  return (text ?? "").split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (part.startsWith("`") && part.length > 1) return element("code", {}, part.slice(1, -1));
    if (part.startsWith("**") && part.length > 4) return element("b", {}, part.slice(2, -2));
    return part;
  });
}
