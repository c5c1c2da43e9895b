// Which actions the page offers, and why it does not. These are the rules of the API as far as the
// page can know them; the API decides.

const ROLES = ["viewer", "runner", "operator", "admin"];

export const atLeast = (role, least) => ROLES.indexOf(role) >= ROLES.indexOf(least);

const withArticle = (role) => (/^[ao]/.test(role) ? `an ${role}` : `a ${role}`);

/**
 * Whether somebody may change a machine.
 *
 * @param about what `/v1/about` says; null while it is unknown
 * @param machine the machine
 * @param lease the lease that holds it, if the page knows it
 * @param holds whether this tab has the secret of that lease
 * @returns `{reason, override}`: `reason` is a sentence if it is forbidden, else null; `override`
 *   is true if an operator must give a reason.
 */
export function mayChange(about, machine, lease, holds) {
  const no = (reason) => ({ reason, override: false });
  const yes = (override) => ({ reason: null, override });
  const role = about?.caller.role;
  if (!role) return no("otter did not say yet who you are.");
  if (!atLeast(role, "runner")) return no("Your role is viewer: a viewer changes nothing.");
  if (machine.protected || about.self_machine === machine.id) {
    return no(`${machine.name} is protected: otter never changes it.`);
  }
  const held = machine.lease;
  if (held) {
    const state = lease?.state ?? "active";
    if (holds && state === "active") return yes(false);
    if (holds) return no(`Your lease is ${state}: it allows changes while it is active.`);
    if (atLeast(role, "operator")) return yes(true);
    const holder = held.holder ?? "another caller";
    return no(`${machine.name} is held by ${holder}: only the holder changes it.`);
  }
  if (atLeast(role, "operator")) return yes(false);
  return no("A runner changes only machines that it holds: take the machine first.");
}

const POWER = {
  on: { from: ["off", "suspended", null], otherwise: "It is on already." },
  off: { from: ["on", "suspended", null], otherwise: "It is off already." },
  reset: { from: ["on", null], otherwise: "It is not on." },
  suspend: { from: ["on", null], otherwise: "It is not on." },
  shutdown: { from: ["on", null], otherwise: "It is not on." },
  reboot: { from: ["on", null], otherwise: "It is not on." },
};

/** As `mayChange`, for a power action. */
export function mayPower(action, about, machine, lease, holds) {
  const right = mayChange(about, machine, lease, holds);
  if (right.reason) return right;
  if (machine.question) {
    return { reason: "The machine asks a question: answer it first.", override: false };
  }
  const { from, otherwise } = POWER[action];
  return from.includes(machine.power_state) ? right : { reason: otherwise, override: false };
}

/** Why somebody may not take a machine; null if they may (perhaps after a wait). */
export function mayTake(about, machine) {
  const role = about?.caller.role;
  if (!role) return "otter did not say yet who you are.";
  if (!atLeast(role, "runner")) return "Your role is viewer: a viewer takes no machine.";
  if (!machine) return null;
  if (machine.protected) return `${machine.name} is protected: no lease gets it.`;
  if (machine.template) return `${machine.name} is a template: no lease gets it.`;
  return null;
}

/** Why somebody may not end or renew a lease; null if they may. */
export function mayEnd(about, lease, holds) {
  if (["released", "expired", "revoked", "failed"].includes(lease.state))
    return "The lease has ended.";
  if (lease.state === "releasing") return "The lease is being released.";
  if (holds) return null;
  const role = about?.caller.role;
  if (role && atLeast(role, "operator")) return null;
  return "Only its holder or an operator ends a lease: use its secret.";
}

export function mayRenew(lease, holds) {
  if (lease.state !== "active")
    return `The lease is ${lease.state}: only an active one is renewed.`;
  return holds ? null : "Only its holder renews a lease: use its secret.";
}

/** Why the role is too low; null if it is enough. */
export function needs(about, least) {
  const role = about?.caller.role;
  if (!role) return "otter did not say yet who you are.";
  return atLeast(role, least) ? null : `Your role is ${role}: this needs ${withArticle(least)}.`;
}

/** Why a job cannot be cancelled; null if it can. */
export function mayCancel(about, job) {
  const low = needs(about, "runner");
  if (low) return low;
  if (!["queued", "running"].includes(job.state)) return "The job has ended.";
  if (!atLeast(about.caller.role, "operator") && job.requested_by !== about.caller.name) {
    return `Only ${job.requested_by} or an operator cancels it.`;
  }
  if (job.cancel_requested_at) return "Its end has been asked for already.";
  if (!job.cancelable) return "The host does not stop this once it runs.";
  return null;
}
