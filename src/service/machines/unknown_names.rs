//! The names of pools, and the failures for names that match nothing: for an unknown pool, and for
//! a lease request that no machine can ever match.

use std::collections::BTreeSet;

use super::{MachineView, Machines, shorten};
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::ids::MachineId;
use crate::domain::lease::Select;
use crate::domain::machine_reference::MachineReference;
use crate::domain::names::{contains_loosely, unescape_vim};
use crate::domain::scope::Scope;

/// The error code that marks the part of a lease request that no machine can ever match.
pub const MATCHES_NONE: &str = "matches-none";

impl Machines {
    /// The names of all pools in the configuration and in annotations of machines. For a restricted
    /// scope, only the pools that have a machine in the scope.
    ///
    /// # Errors
    /// The errors of [`Machines::contents`].
    pub fn pool_names(&self, scope: &Scope) -> Result<BTreeSet<String>, Failure> {
        self.contents()?;
        let machines = self.visibility.machines(scope);
        let pools = &self.settings.load().pools;
        let named = machines.iter().flat_map(|machine| pools.for_machine(machine));
        let configured = pools.0.keys().filter(|_| !scope.is_restricted());
        Ok(named.chain(configured.cloned()).collect())
    }

    /// Checks that a pool with this name exists for a caller with this scope.
    ///
    /// # Errors
    /// - `invalid-request`, with the names of the pools that exist for the caller
    /// - the errors of [`Machines::contents`]
    pub fn require_pool(&self, scope: &Scope, pool: &str) -> Result<(), Failure> {
        let Some(reason) = self.missing_pool(scope, pool)? else { return Ok(()) };
        let detail = format!("pool is {}: {reason}.", shorten(pool));
        Err(Failure::new(FailureKind::InvalidRequest, detail.clone()).with_error(InputError {
            pointer: None,
            parameter: Some("pool".to_owned()),
            code: "not-one-of".into(),
            detail,
        }))
    }

    /// The name of the pool that a path contains. A slash in the name may be escaped as in vim25
    /// (`%2f`), because some proxies refuse `%2F` in a URL.
    ///
    /// # Errors
    /// - `not-found`, with the names of the existing pools
    /// - the errors of [`Machines::contents`]
    pub fn find_pool(&self, scope: &Scope, pool: &str) -> Result<String, Failure> {
        let Some(reason) = self.missing_pool(scope, pool)? else { return Ok(pool.to_owned()) };
        let unescaped = unescape_vim(pool);
        if self.missing_pool(scope, &unescaped)?.is_none() {
            return Ok(unescaped);
        }
        let detail = format!("{}. List them: GET /v1/pools", capitalized(&reason));
        Err(Failure::new(FailureKind::NotFound, detail))
    }

    /// A text that says why a pool does not exist. `None` if the pool exists.
    fn missing_pool(&self, scope: &Scope, pool: &str) -> Result<Option<String>, Failure> {
        if !scope.is_restricted() && self.settings.load().pools.get(pool).is_some() {
            return Ok(None);
        }
        let known = self.pool_names(scope)?;
        Ok((!known.contains(pool)).then(|| no_such_pool(pool, &known)))
    }

    /// A sentence for each of these pools that does not exist.
    ///
    /// # Errors
    /// The errors of [`Machines::contents`].
    pub fn unknown_pools(&self, scope: &Scope, pools: &[String]) -> Result<Vec<String>, Failure> {
        if pools.is_empty() {
            return Ok(Vec::new());
        }
        let known = self.pool_names(scope)?;
        let unknown = pools.iter().filter(|pool| !known.contains(*pool));
        Ok(unknown.map(|pool| format!("select.pools: {}.", no_such_pool(pool, &known))).collect())
    }

    /// The failure of a lease request that no machine can ever match. It names the part of the
    /// request that matches no machine.
    ///
    /// # Errors
    /// The errors of [`Machines::contents`].
    pub fn why_none_fits(&self, scope: &Scope, select: &Select) -> Result<Failure, Failure> {
        let (pointer, why) = self.part_without_match(scope, select)?;
        let detail = format!("No machine matches the request, whatever becomes free: {why}");
        Ok(Failure::new(FailureKind::NoFreeMachine, detail.clone()).with_error(InputError {
            pointer: Some(pointer.to_owned()),
            parameter: None,
            code: MATCHES_NONE.into(),
            detail,
        }))
    }

    /// The part of a lease request that no machine matches, as a JSON pointer, and the reason.
    fn part_without_match(
        &self,
        scope: &Scope,
        select: &Select,
    ) -> Result<(&'static str, String), Failure> {
        let Select { machine, name, pools, nested_virtualization, .. } = select;
        let at_pools = if pools.is_empty() { "/select/pool" } else { "/select/pools" };
        if let Some(pool) = select.pool_names().next() {
            let known = self.pool_names(scope)?;
            if !select.pool_names().any(|name| known.contains(name)) {
                let why = format!("{}. GET /v1/pools", no_such_pool(pool, &known));
                return Ok((at_pools, why));
            }
        }
        if let Some(reference) = machine {
            match self.resolve_reference(scope, reference) {
                Ok(view) => {
                    if let Some(why) = self.never_granted(&view) {
                        return Ok(("/select/machine", why));
                    }
                }
                // Several machines match this part of the request, so look for another part that no
                // machine matches.
                Err(failure) if failure.kind == FailureKind::AmbiguousName => {}
                Err(failure) => return Ok(("/select/machine", failure.detail)),
            }
        }
        let views = self.list(scope, &super::MachineFilter::default())?;
        let memory = |view: &MachineView| view.machine.memory_bytes.unwrap_or_default();
        let pool_list: Vec<String> = select.pool_names().map(|pool| shorten(pool)).collect();
        let parts: [(&'static str, bool, String); 5] = [
            (
                "/select/name",
                views.iter().any(|view| has_name(select, view)),
                format!(
                    "no name of a machine contains {}.",
                    shorten(name.as_deref().unwrap_or_default())
                ),
            ),
            (
                "/select/mac",
                views.iter().any(|view| has_mac(select, view)),
                "no machine has this hardware address.".to_owned(),
            ),
            (
                at_pools,
                views.iter().any(|view| select.accepts_pools(&view.pools)),
                match pool_list.as_slice() {
                    [pool] => format!("there is no machine in the pool {pool}."),
                    pools => format!("there is no machine in the pools {}.", pools.join(", ")),
                },
            ),
            (
                "/select/memory_bytes_at_least",
                views.iter().any(|view| has_memory(select, view)),
                format!(
                    "the largest machine has {} bytes of memory.",
                    views.iter().map(memory).max().unwrap_or_default()
                ),
            ),
            (
                "/select/nested_virtualization",
                views.iter().any(|view| has_nesting(select, view)),
                match nested_virtualization {
                    Some(false) => "no machine is known to be without nested virtualization.",
                    _ => "no machine has nested virtualization.",
                }
                .to_owned(),
            ),
        ];
        if let Some((pointer, _, why)) = parts.into_iter().find(|(_, matches, _)| !matches) {
            return Ok((pointer, format!("{why} Look: GET /v1/machines, GET /v1/pools")));
        }
        Ok(self.combination_without_match(&views, select))
    }

    /// If each part of a lease request matches some machine, but no machine matches all parts
    /// together: the JSON pointer to what does not match, and the reason.
    fn combination_without_match(
        &self,
        views: &[MachineView],
        select: &Select,
    ) -> (&'static str, String) {
        let machines = views.iter().map(|view| &*view.machine);
        let ids = |reference: &MachineReference| -> Vec<&MachineId> {
            reference.matching(machines.clone()).into_iter().map(|machine| &machine.id).collect()
        };
        let named = select.machine.as_ref().map(ids);
        let matches_rest = |view: &&MachineView| {
            let is_named = named.as_ref().is_none_or(|named| named.contains(&&view.machine.id));
            let is_found = has_name(select, view) && has_mac(select, view);
            let has_features = has_memory(select, view) && has_nesting(select, view);
            is_named && is_found && select.accepts_pools(&view.pools) && has_features
        };
        let matching: Vec<&MachineView> = views.iter().filter(matches_rest).collect();
        let excluded: BTreeSet<&MachineId> = select.exclude.iter().flat_map(ids).collect();
        let is_excluded = |view: &MachineView| excluded.contains(&view.machine.id);
        if !matching.is_empty() && matching.iter().all(|view| is_excluded(view)) {
            let why = "exclude names every machine that matches the rest of select.";
            return ("/select/exclude", why.to_owned());
        }
        let mut rest = matching.iter().filter(|view| !is_excluded(view));
        let never = rest.find_map(|view| self.never_granted(view));
        let why = never.unwrap_or_else(|| {
            "each part of select matches a machine, and none matches all. \
             Look: GET /v1/machines"
                .to_owned()
        });
        ("/select", why)
    }

    /// Why a machine is never granted. `None` if it can be granted.
    fn never_granted(&self, view: &MachineView) -> Option<String> {
        let name = &view.machine.name;
        match self.may_change(view) {
            Err(protected) => Some(protected.detail),
            Ok(()) if view.machine.template => {
                Some(format!("{name} is a template, and templates are never granted."))
            }
            Ok(()) => None,
        }
    }
}

fn has_name(select: &Select, view: &MachineView) -> bool {
    select.name.as_ref().is_none_or(|name| contains_loosely(&view.machine.name, name))
}

fn has_mac(select: &Select, view: &MachineView) -> bool {
    let cards = &view.machine.network_cards;
    select.mac.is_none_or(|mac| cards.iter().any(|card| card.mac_address == Some(mac)))
}

fn has_memory(select: &Select, view: &MachineView) -> bool {
    let memory = view.machine.memory_bytes.unwrap_or_default();
    select.memory_bytes_at_least.is_none_or(|least| memory >= least)
}

fn has_nesting(select: &Select, view: &MachineView) -> bool {
    let nested = view.machine.nested_virtualization;
    select.nested_virtualization.is_none_or(|wanted| nested == Some(wanted))
}

/// The text for an unknown pool. It names the existing pools, and the one with the most similar
/// name.
fn no_such_pool(pool: &str, known: &BTreeSet<String>) -> String {
    if known.is_empty() {
        return format!("there is no pool {}, and no other either", shorten(pool));
    }
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    let near = |name: &&str| strsim::jaro_winkler(name, pool);
    let nearest = names.iter().copied().max_by(|one, other| near(one).total_cmp(&near(other)));
    let hint = nearest.filter(|name| near(name) > 0.7);
    let hint = hint.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
    format!("there is no pool {}{hint}; the pools are {}", shorten(pool), names.join(", "))
}

/// The text with an upper-case first letter.
fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}
