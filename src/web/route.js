// The address of the view: `#/machines/16?name=sdw`, and the fragment of a console token,
// `#console=screen&machine=16&mode=drive&token=…`.

/** The parts of a fragment: `path` (decoded segments), `query`, and `console` (a console token). */
export function parse(fragment) {
  const text = fragment.replace(/^#/, "");
  if (text.startsWith("console=")) {
    return { path: ["console"], query: new URLSearchParams(), console: new URLSearchParams(text) };
  }
  const mark = text.indexOf("?");
  const path = mark < 0 ? text : text.slice(0, mark);
  const query = new URLSearchParams(mark < 0 ? "" : text.slice(mark + 1));
  return { path: path.split("/").filter(Boolean).map(decode), query };
}

function decode(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

/** The fragment of a view. Empty values of the query are left out. */
export function link(path, query = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") search.set(name, value);
  }
  const text = search.toString();
  return `#/${path.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

/** The view that shows an object of the API, for a path such as `/v1/machines/16`; else null. */
export function viewOf(apiPath, base) {
  const own = apiPath.startsWith(`${base}/`) ? apiPath.slice(base.length) : apiPath;
  const known = /^\/v1\/(machines|jobs|leases|artifacts|datastores)\/([^/?]+)(\/screen)?$/.exec(
    own,
  );
  if (!known) return null;
  const [, kind, id, screen] = known;
  return link(screen ? [kind, decode(id), "screen"] : [kind, decode(id)]);
}
