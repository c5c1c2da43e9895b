// What this tab knows secretly: the token, and the secrets of its leases. All of it ends with the
// tab.

const TOKEN = "otter.token";
const LEASES = "otter.leases";

export const token = () => sessionStorage.getItem(TOKEN);

export function setToken(text) {
  if (text) sessionStorage.setItem(TOKEN, text);
  else sessionStorage.removeItem(TOKEN);
}

function secrets() {
  try {
    return JSON.parse(sessionStorage.getItem(LEASES) ?? "{}");
  } catch {
    return {};
  }
}

/** The header `Otter-Lease` of a lease, or null if this tab does not know its secret. */
export function leaseHeader(lease) {
  const secret = lease ? secrets()[lease] : undefined;
  return secret ? `${lease}.${secret}` : null;
}

export const holds = (lease) => leaseHeader(lease) !== null;

export function keepSecret(lease, secret) {
  sessionStorage.setItem(LEASES, JSON.stringify({ ...secrets(), [lease]: secret }));
}

export function forgetSecret(lease) {
  const { [lease]: _, ...others } = secrets();
  sessionStorage.setItem(LEASES, JSON.stringify(others));
}

export function forgetAll() {
  sessionStorage.removeItem(TOKEN);
  sessionStorage.removeItem(LEASES);
}
