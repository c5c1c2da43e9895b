//! The names of pools, and the failures for names that match nothing: an unknown pool, and a lease
//! request that no machine can ever match.

use std::collections::BTreeSet;

use super::{MachineView, Machines, shorten};
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::lease::Select;
use crate::domain::names::{contains_loosely, unescape_vim};
use crate::domain::scope::Scope;

/// The error code for the part of a lease request that no machine can ever match.
pub const MATCHES_NONE: &str = "matches-none";

impl Machines {
    /// The names of all pools in the configuration and in annotations of machines. For a restricted
    /// scope, only the pools that have a machine in the scope.
    ///
    /// # Errors
    /// As for [`Machines::contents`].
    pub fn pool_names(&self, scope: &Scope) -> Result<BTreeSet<String>, Failure> {
        self.contents()?;
        let machines = self.visibility.machines(scope);
        let pools = &self.settings.load().pools;
        let named = machines.iter().flat_map(|machine| pools.for_machine(machine));
        let configured = pools.0.keys().filter(|_| !scope.is_restricted());
        Ok(named.chain(configured.cloned()).collect())
    }

    /// Checks that the scope can see a pool with this name.
    ///
    /// # Errors
    /// - `invalid-request`, with the names of the pools that the scope can see
    /// - as for [`Machines::contents`]
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

    /// The name of the pool in a path. A slash may have the escape of names, because some proxies
    /// refuse `%2F` in a URL.
    ///
    /// # Errors
    /// - `not-found`, with the names of the existing pools
    /// - as for [`Machines::contents`]
    pub fn find_pool(&self, scope: &Scope, pool: &str) -> Result<String, Failure> {
        let Some(reason) = self.missing_pool(scope, pool)? else { return Ok(pool.to_owned()) };
        let unescaped = unescape_vim(pool);
        if self.missing_pool(scope, &unescaped)?.is_none() {
            return Ok(unescaped);
        }
        let detail = format!("{}. List them: GET /v1/pools", capitalized(&reason));
        Err(Failure::new(FailureKind::NotFound, detail))
    }

    /// Why a pool does not exist. `None` if it exists.
    fn missing_pool(&self, scope: &Scope, pool: &str) -> Result<Option<String>, Failure> {
        if !scope.is_restricted() && self.settings.load().pools.get(pool).is_some() {
            return Ok(None);
        }
        let known = self.pool_names(scope)?;
        Ok((!known.contains(pool)).then(|| no_such_pool(pool, &known)))
    }

    /// The failure of a lease request that no machine can ever match. It names the part of the
    /// request that matches no machine.
    ///
    /// # Errors
    /// As for [`Machines::contents`].
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

    /// The JSON pointer to the part of a request that no machine matches, and the reason.
    fn part_without_match(
        &self,
        scope: &Scope,
        select: &Select,
    ) -> Result<(&'static str, String), Failure> {
        let Select { machine, name, mac, pool } = select;
        if let Some(pool) = pool {
            let known = self.pool_names(scope)?;
            if !known.contains(pool) {
                let why = format!("{}. GET /v1/pools", no_such_pool(pool, &known));
                return Ok(("/select/pool", why));
            }
        }
        if let Some(reference) = machine {
            match self.resolve_reference(scope, reference) {
                Ok(view) => {
                    if let Some(why) = self.never_granted(&view) {
                        return Ok(("/select/machine", why));
                    }
                }
                // Several machines match the reference, so another part of the request has no
                // match.
                Err(failure) if failure.kind == FailureKind::AmbiguousName => {}
                Err(failure) => return Ok(("/select/machine", failure.detail)),
            }
        }
        let views = self.list(scope, &super::MachineFilter::default())?;
        let has_name = |view: &&MachineView| {
            name.as_ref().is_none_or(|name| contains_loosely(&view.machine.name, name))
        };
        let has_mac = |view: &&MachineView| {
            let cards = &view.machine.network_cards;
            mac.is_none_or(|mac| cards.iter().any(|card| card.mac_address == Some(mac)))
        };
        let in_pool =
            |view: &&MachineView| pool.as_ref().is_none_or(|pool| view.pools.contains(pool));
        let parts: [(&'static str, bool, String); 3] = [
            (
                "/select/name",
                views.iter().any(|view| has_name(&view)),
                format!(
                    "no name of a machine contains {}.",
                    shorten(name.as_deref().unwrap_or_default())
                ),
            ),
            (
                "/select/mac",
                views.iter().any(|view| has_mac(&view)),
                "no machine has this hardware address.".to_owned(),
            ),
            (
                "/select/pool",
                views.iter().any(|view| in_pool(&view)),
                format!(
                    "there is no machine in the pool {}.",
                    shorten(pool.as_deref().unwrap_or_default())
                ),
            ),
        ];
        if let Some((pointer, _, why)) = parts.into_iter().find(|(_, matches, _)| !matches) {
            return Ok((pointer, format!("{why} Look: GET /v1/machines, GET /v1/pools")));
        }
        let mut all = views.iter().filter(|view| has_name(view) && has_mac(view) && in_pool(view));
        let never = all.find_map(|view| self.never_granted(view));
        let why = never.unwrap_or_else(|| {
            "each part of select matches a machine, and none matches all. \
             Look: GET /v1/machines"
                .to_owned()
        });
        Ok(("/select", why))
    }

    /// Why a machine is never granted; `None` if it can be granted.
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

/// The text for an unknown pool, with the existing pools and the most similar name.
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
