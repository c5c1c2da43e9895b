// Bytes that only a caller with a token may read: read with it, and given to the browser as a blob.

import { request } from "./api.js";

/** Larger files are not read by the page: the browser would hold them in memory. */
export const MAX_SHOWN = 64 * 1024 * 1024;

let urls = [];

/** The address of a blob with the bytes of a path, until the view is left. */
export async function ownedUrl(target, type, signal, options = {}) {
  const response = await request("GET", target, { ...options, signal });
  const blob = new Blob([await response.arrayBuffer()], { type });
  return keepUrl(blob);
}

function keepUrl(blob) {
  const url = URL.createObjectURL(blob);
  urls.push(url);
  return url;
}

/** Frees the blobs of a view that was left. */
export function forgetUrls() {
  for (const url of urls) URL.revokeObjectURL(url);
  urls = [];
}

/** Frees one blob earlier. */
export function forgetUrl(url) {
  URL.revokeObjectURL(url);
  urls = urls.filter((other) => other !== url);
}

/** Saves the bytes of a path as a file. */
export async function save(target, name, options = {}) {
  const response = await request("GET", target, options);
  saveBlob(await response.blob(), name);
}

export function saveBlob(blob, name) {
  const url = URL.createObjectURL(blob);
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
