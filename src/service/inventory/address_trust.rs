//! Whether otter trusts the addresses that the host reports of a guest. The host continues to
//! report an address after the guest has lost it, for example after a revert.
//!
//! ```text
//!             restart (start, revert, reset)
//!   Trusted ─────────────────────────────────► Untrusted ── after guest_settle: a direct read ──┐
//!      ▲                                           │                                            │
//!      └── an address arrives, or the tools start ─┘◄── tools run and show the same address ────┘
//! ```
//! The addresses of a machine that is not on are untrusted. If the guest tools stop, the addresses
//! are untrusted until the tools run again. An address that arrives while no tools run stays
//! untrusted.

use std::time::Duration;

use crate::domain::machine::Machine;
use crate::domain::power::PowerState;
use crate::domain::snapshot::Snapshots;

/// Whether the addresses that the host reports of a guest are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressTrust {
    Trusted,
    /// The addresses are not trusted. From the time `confirm_at` on (the elapsed time of the
    /// clock), a direct read of the guest may restore trust. If `confirm_at` is `None`, only a new
    /// address or a start of the tools restores trust.
    Untrusted {
        confirm_at: Option<Duration>,
    },
}

impl AddressTrust {
    /// Whether the addresses are trusted when otter first sees the machine.
    #[must_use]
    pub fn at_first(machine: &Machine, now: Duration, settle: Duration) -> Self {
        match machine.power_state {
            Some(PowerState::On) if machine.guest.tools_running => Self::Trusted,
            Some(PowerState::On) => Self::untrusted_from(now, settle),
            _ => Self::Untrusted { confirm_at: None },
        }
    }

    /// Whether the addresses are trusted after an update changed the machine from `before` to
    /// `after`.
    #[must_use]
    pub fn after_update(
        self,
        before: &Machine,
        after: &Machine,
        now: Duration,
        settle: Duration,
    ) -> Self {
        if after.power_state != Some(PowerState::On) {
            return Self::Untrusted { confirm_at: None };
        }
        if before.power_state != after.power_state || reverted(&before.snapshots, &after.snapshots)
        {
            return Self::untrusted_from(now, settle);
        }
        let tools_started = !before.guest.tools_running && after.guest.tools_running;
        let tools_stopped = before.guest.tools_running && !after.guest.tools_running;
        // An address that the host reports while no tools run is an old one.
        let no_tools =
            matches!(after.guest.tools_status.as_deref(), Some("not_running" | "not_installed"));
        let arrived = !no_tools && after.guest.has_new_address_since(&before.guest);
        match self {
            _ if tools_stopped => Self::Untrusted { confirm_at: None },
            _ if tools_started || arrived => Self::Trusted,
            unchanged => unchanged,
        }
    }

    /// Whether the addresses are trusted after a gap without updates that ended with a complete
    /// read. `before` is the machine before the gap, and `after` is the machine in the complete
    /// read. A gap alone does not restore trust.
    #[must_use]
    pub fn after_gap(
        self,
        before: &Machine,
        after: &Machine,
        now: Duration,
        settle: Duration,
    ) -> Self {
        let seems_untouched = before.power_state == after.power_state
            && !reverted(&before.snapshots, &after.snapshots);
        if self == Self::Trusted && seems_untouched {
            return Self::at_first(after, now, settle);
        }
        match self.after_update(before, after, now, settle) {
            // The update that would have restored trust may be lost in the gap, so a direct read
            // may restore trust.
            Self::Untrusted { confirm_at: None } if after.power_state == Some(PowerState::On) => {
                Self::untrusted_from(now, settle)
            }
            other => other,
        }
    }

    /// Whether the addresses are trusted after a task that restarts the guest. The task counts even
    /// if no property of the machine changed.
    #[must_use]
    pub fn after_restart(machine: &Machine, now: Duration, settle: Duration) -> Self {
        match machine.power_state {
            Some(PowerState::On) => Self::untrusted_from(now, settle),
            _ => Self::Untrusted { confirm_at: None },
        }
    }

    /// Whether the addresses are trusted after a direct read of the guest at the time `now`.
    #[must_use]
    pub fn after_confirmation(
        self,
        machine: &Machine,
        tools_running: bool,
        address: Option<&str>,
        now: Duration,
    ) -> Self {
        match self {
            Self::Untrusted { confirm_at: Some(at) } if at <= now => {
                let same = address.is_some() && address == machine.guest.ip_address.as_deref();
                let on = machine.power_state == Some(PowerState::On);
                if tools_running && same && on {
                    Self::Trusted
                } else {
                    Self::Untrusted { confirm_at: None }
                }
            }
            other => other,
        }
    }

    /// When a direct read may restore trust, as the elapsed time of the clock. `None` if a direct
    /// read cannot restore trust.
    #[must_use]
    pub const fn confirm_at(self) -> Option<Duration> {
        match self {
            Self::Untrusted { confirm_at } => confirm_at,
            Self::Trusted => None,
        }
    }

    const fn untrusted_from(now: Duration, settle: Duration) -> Self {
        Self::Untrusted { confirm_at: Some(now.saturating_add(settle)) }
    }
}

/// Whether a revert changed the current snapshot. The current snapshot also changes when a snapshot
/// is created (the new one becomes current) or removed (its parent becomes current), but neither
/// changes the guest.
pub fn reverted(before: &Snapshots, after: &Snapshots) -> bool {
    if before.current == after.current {
        return false;
    }
    let Some(now_current) = &after.current else { return false };
    let was_there = before.get(now_current).is_some();
    let old_one_stayed = before.current.as_ref().is_none_or(|old| after.get(old).is_some());
    was_there && old_one_stayed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::SnapshotId;
    use crate::domain::machine::GuestInterface;
    use crate::domain::snapshot::Snapshot;
    use crate::service::inventory::samples;

    const NOW: Duration = Duration::from_secs(100);
    const SETTLE: Duration = Duration::from_secs(30);
    const UNTRUSTED: AddressTrust =
        AddressTrust::Untrusted { confirm_at: Some(Duration::from_secs(130)) };

    fn running(tools: bool, address: Option<&str>) -> Machine {
        let mut machine = samples::machine("1", "runner");
        machine.power_state = Some(PowerState::On);
        machine.guest.tools_running = tools;
        machine.guest.ip_address = address.map(str::to_owned);
        machine.guest.interfaces = address.map(interface).into_iter().collect();
        machine
    }

    fn interface(address: &str) -> GuestInterface {
        GuestInterface {
            mac_address: "00:50:56:00:00:01".parse().ok(),
            card_key: Some(4000),
            addresses: vec![address.to_owned()],
        }
    }

    fn off(address: Option<&str>) -> Machine {
        Machine { power_state: Some(PowerState::Off), ..running(false, address) }
    }

    fn with_snapshots(mut machine: Machine, ids: &[&str], current: &str) -> Machine {
        machine.snapshots.items =
            ids.iter().map(|id| samples::snapshot(id, id, None)).collect::<Vec<Snapshot>>();
        machine.snapshots.current = Some(SnapshotId::from_backend(current));
        machine
    }

    #[test]
    fn at_first_load_running_tools_are_trusted() {
        assert_eq!(
            AddressTrust::at_first(&running(true, Some("10.0.0.5")), NOW, SETTLE),
            AddressTrust::Trusted
        );
        assert_eq!(
            AddressTrust::at_first(&running(false, Some("10.0.0.5")), NOW, SETTLE),
            UNTRUSTED
        );
        assert_eq!(
            AddressTrust::at_first(&off(Some("10.0.0.5")), NOW, SETTLE),
            AddressTrust::Untrusted { confirm_at: None }
        );
    }

    #[test]
    fn a_start_ends_trust_and_a_new_address_or_the_tools_restore_it() {
        let stale = Some("10.0.0.5");
        let started =
            AddressTrust::Trusted.after_update(&off(stale), &running(true, stale), NOW, SETTLE);
        assert_eq!(started, UNTRUSTED);
        let same = started.after_update(&running(true, stale), &running(true, stale), NOW, SETTLE);
        assert_eq!(same, UNTRUSTED, "an unchanged address does not restore trust");
        let arrived = started.after_update(
            &running(true, stale),
            &running(true, Some("10.0.0.6")),
            NOW,
            SETTLE,
        );
        assert_eq!(arrived, AddressTrust::Trusted);
        let tools =
            started.after_update(&running(false, stale), &running(true, stale), NOW, SETTLE);
        assert_eq!(tools, AddressTrust::Trusted);
        let cleared =
            started.after_update(&running(true, stale), &running(true, None), NOW, SETTLE);
        assert_eq!(cleared, UNTRUSTED, "a removed address does not restore trust");
        let mut second = running(true, stale);
        second.guest.interfaces[0].addresses.push("10.0.0.7".to_owned());
        let arrived = started.after_update(&running(true, stale), &second, NOW, SETTLE);
        assert_eq!(arrived, AddressTrust::Trusted, "a second address restores trust");
        let fewer = started.after_update(&second, &running(true, stale), NOW, SETTLE);
        assert_eq!(fewer, UNTRUSTED, "fewer addresses do not restore trust");
    }

    #[test]
    fn an_address_that_arrives_while_no_tools_run_is_an_old_one() {
        let without_tools = |address: Option<&str>| {
            let mut machine = running(false, address);
            machine.guest.tools_status = Some("not_running".to_owned());
            machine
        };
        let arrived = UNTRUSTED.after_update(
            &without_tools(None),
            &without_tools(Some("10.0.0.5")),
            NOW,
            SETTLE,
        );
        assert_eq!(arrived, UNTRUSTED);
    }

    #[test]
    fn an_address_that_comes_with_the_start_itself_is_not_trusted() {
        let after = running(true, Some("10.0.0.5"));
        assert_eq!(AddressTrust::Trusted.after_update(&off(None), &after, NOW, SETTLE), UNTRUSTED);
    }

    #[test]
    fn power_off_and_stopped_tools_end_trust() {
        let on = running(true, Some("10.0.0.5"));
        let gone = AddressTrust::Untrusted { confirm_at: None };
        assert_eq!(
            AddressTrust::Trusted.after_update(&on, &off(Some("10.0.0.5")), NOW, SETTLE),
            gone
        );
        assert_eq!(
            AddressTrust::Trusted.after_update(&on, &running(false, Some("10.0.0.5")), NOW, SETTLE),
            gone
        );
    }

    #[test]
    fn a_revert_ends_trust_and_taking_or_removing_snapshots_does_not() {
        let on = || running(true, Some("10.0.0.5"));
        let before = with_snapshots(on(), &["a", "b"], "b");
        let after = |machine| AddressTrust::Trusted.after_update(&before, &machine, NOW, SETTLE);
        assert_eq!(after(with_snapshots(on(), &["a", "b"], "a")), UNTRUSTED, "reverted to a");
        assert_eq!(
            after(with_snapshots(on(), &["a", "b", "c"], "c")),
            AddressTrust::Trusted,
            "took c"
        );
        assert_eq!(after(with_snapshots(on(), &["a"], "a")), AddressTrust::Trusted, "removed b");
        assert_eq!(after(on()), AddressTrust::Trusted, "removed all");
    }

    #[test]
    fn a_direct_read_restores_trust_once_it_is_due() {
        let machine = running(true, Some("10.0.0.5"));
        let due = Duration::from_secs(130);
        assert_eq!(
            UNTRUSTED.after_confirmation(&machine, true, Some("10.0.0.5"), due),
            AddressTrust::Trusted
        );
        assert_eq!(
            UNTRUSTED.after_confirmation(&machine, true, Some("10.0.0.5"), NOW),
            UNTRUSTED,
            "too early"
        );
        let no = AddressTrust::Untrusted { confirm_at: None };
        assert_eq!(UNTRUSTED.after_confirmation(&machine, false, Some("10.0.0.5"), due), no);
        assert_eq!(
            UNTRUSTED.after_confirmation(&machine, true, Some("10.0.0.6"), due),
            no,
            "another address"
        );
    }

    #[test]
    fn a_gap_does_not_restore_trust() {
        let stale = running(true, Some("10.0.0.5"));
        assert_eq!(UNTRUSTED.after_gap(&stale, &stale, NOW, SETTLE), UNTRUSTED);
        let unconfirmable = AddressTrust::Untrusted { confirm_at: None };
        assert_eq!(unconfirmable.after_gap(&stale, &stale, NOW, SETTLE), UNTRUSTED);
        let other = running(true, Some("10.0.0.6"));
        assert_eq!(UNTRUSTED.after_gap(&stale, &other, NOW, SETTLE), AddressTrust::Trusted);

        assert_eq!(
            AddressTrust::Trusted.after_gap(&stale, &stale, NOW, SETTLE),
            AddressTrust::Trusted
        );
        let mut off = stale.clone();
        off.power_state = Some(PowerState::Off);
        assert_eq!(AddressTrust::Trusted.after_gap(&stale, &off, NOW, SETTLE), unconfirmable);
        assert_eq!(unconfirmable.after_gap(&off, &stale, NOW, SETTLE), UNTRUSTED);
    }

    #[test]
    fn trust_outlasts_a_gap_if_nothing_happened_and_the_tools_run() {
        let on = || running(true, Some("10.0.0.5"));
        let before = with_snapshots(on(), &["a", "b"], "b");
        let reverted = with_snapshots(on(), &["a", "b"], "a");
        assert_eq!(
            AddressTrust::Trusted.after_gap(&before, &before, NOW, SETTLE),
            AddressTrust::Trusted
        );
        assert_eq!(AddressTrust::Trusted.after_gap(&before, &reverted, NOW, SETTLE), UNTRUSTED);
        let without_tools = running(false, Some("10.0.0.5"));
        assert_eq!(
            AddressTrust::Trusted.after_gap(&without_tools, &without_tools, NOW, SETTLE),
            UNTRUSTED
        );
    }
}
