//! The `PropertyCollector`: one-time reads in pages, and filters that report changes.
//!
//! ```text
//! version ""  ──► every object as `enter` ──► version n ──► the changes after n ──► version m
//!                        └ truncated at maxObjectUpdates: versions "m.1", "m.2", …
//! ```
//! A client may use the last complete version again, because the answer to the wait with that
//! version may have been lost. The version of a truncated update set is valid for one wait. A wait
//! with an older version fails with `InvalidCollectorVersion`.

mod filter;
mod filter_spec;

use std::collections::{BTreeMap, VecDeque};

use filter::{Filter, PendingUpdate, write_missing};
pub use filter_spec::FilterSpec;
use filter_spec::{PropertyReading, read_properties};

use super::read_scope::ReadScope;
use super::value::{Moref, Value};
use super::vim_fault::Fault;
use crate::esx::soap::xml::Writer;

/// The number of complete versions from which a client may continue: the current one and the one
/// before it.
const ACCEPTED_VERSIONS: usize = 2;

/// A `PropertyCollector` of a session.
#[derive(Debug, Default)]
pub struct PropertyCollector {
    filters: BTreeMap<String, Filter>,
    version: u64,
    accepted: VecDeque<u64>,
    remaining: Option<RemainingUpdates>,
    pages: BTreeMap<String, PagedRead>,
    /// How often a client called `CancelWaitForUpdates` on this collector.
    pub cancelled: u64,
}

/// The updates of a truncated update set that the client has not got yet.
#[derive(Debug)]
struct RemainingUpdates {
    version: u64,
    part: u64,
    updates: VecDeque<(String, PendingUpdate)>,
}

/// The objects of a read in pages that the client has not got yet.
#[derive(Debug)]
struct PagedRead {
    size: usize,
    objects: VecDeque<ObjectContent>,
}

/// The `ObjectContent` of one object: its reference and the properties that were read.
#[derive(Debug)]
struct ObjectContent {
    object: Moref,
    readings: Vec<PropertyReading>,
}

impl PropertyCollector {
    /// `CreateFilter`: adds a filter to the collector.
    ///
    /// # Errors
    /// `ManagedObjectNotFound` if an object of the spec does not exist, unless the spec asks to
    /// report missing objects.
    pub fn create_filter(
        &mut self,
        id: String,
        spec: FilterSpec,
        partial: bool,
        scope: ReadScope<'_>,
    ) -> Result<(), Fault> {
        let selected = spec.select(scope)?;
        if let Some(missing) = selected.missing.first()
            && !spec.report_missing
        {
            return Err(Fault::not_found(missing));
        }
        self.filters.insert(id, Filter::new(spec, partial));
        Ok(())
    }

    /// The ids of the filters of this collector.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        self.filters.keys().map(String::as_str)
    }

    /// Removes a filter. Returns whether it existed.
    pub fn remove_filter(&mut self, id: &str) -> bool {
        self.filters.remove(id).is_some()
    }

    /// Writes the updates after the version `known` as the element `returnval`, with at most
    /// `limit` objects. Returns whether there were updates to write.
    ///
    /// # Errors
    /// `InvalidCollectorVersion` if the client may not continue from the version `known`.
    pub fn updates(
        &mut self,
        scope: ReadScope<'_>,
        known: &str,
        limit: Option<usize>,
        writer: &mut Writer,
    ) -> Result<bool, Fault> {
        let mut remaining = match known.split_once('.') {
            Some((version, part)) => self.resume(version, part)?,
            None => self.collect_updates(scope, known)?,
        };
        if remaining.updates.is_empty() {
            return Ok(false);
        }
        let limit =
            limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX).min(remaining.updates.len());
        let batch: Vec<(String, PendingUpdate)> = remaining.updates.drain(..limit).collect();
        let version = if remaining.updates.is_empty() {
            self.accepted.push_back(remaining.version);
            while self.accepted.len() > ACCEPTED_VERSIONS {
                self.accepted.pop_front();
            }
            remaining.version.to_string()
        } else {
            format!("{}.{}", remaining.version, remaining.part)
        };
        let truncated = !remaining.updates.is_empty();
        writer.start("returnval", &[]).leaf("version", &[], &version);
        let mut written: Option<&str> = None;
        for (id, pending) in &batch {
            let Some(filter) = self.filters.get(id) else { continue };
            if written != Some(id) {
                if written.is_some() {
                    writer.end();
                }
                writer.start("filterSet", &[]);
                writer.leaf("filter", &[("type", "PropertyFilter")], id);
                written = Some(id);
            }
            filter.write(writer, pending);
        }
        if written.is_some() {
            writer.end();
        }
        if truncated {
            writer.leaf("truncated", &[], "true");
            self.remaining = Some(remaining);
        }
        writer.end();
        Ok(true)
    }

    /// `RetrievePropertiesEx`: writes the first page of the read. A client asks for the next page
    /// by `token`.
    pub fn retrieve(
        &mut self,
        specs: &[FilterSpec],
        scope: ReadScope<'_>,
        page: Option<usize>,
        token: String,
        writer: &mut Writer,
    ) -> Result<(), Fault> {
        let mut objects = VecDeque::new();
        for spec in specs {
            let selected = spec.select(scope)?;
            if let Some(missing) = selected.missing.first()
                && !spec.report_missing
            {
                return Err(Fault::not_found(missing));
            }
            for object in selected.in_order() {
                let paths = spec.paths_for(object.kind).unwrap_or_default();
                let readings = read_properties(scope, &object, &paths);
                objects.push_back(ObjectContent { object, readings });
            }
        }
        let size = page.filter(|page| *page > 0).unwrap_or(usize::MAX);
        self.write_page(PagedRead { size, objects }, token, writer);
        Ok(())
    }

    /// `ContinueRetrievePropertiesEx`: writes the next page of an earlier read.
    pub fn continue_retrieve(
        &mut self,
        token: &str,
        next_token: String,
        writer: &mut Writer,
    ) -> Result<(), Fault> {
        let pages = self.pages.remove(token).ok_or_else(|| Fault::invalid_argument("token"))?;
        self.write_page(pages, next_token, writer);
        Ok(())
    }

    /// `CancelRetrievePropertiesEx`: drops the pages of a read that the client has not got yet.
    pub fn cancel_retrieve(&mut self, token: &str) -> Result<(), Fault> {
        self.pages.remove(token).map(|_| ()).ok_or_else(|| Fault::invalid_argument("token"))
    }

    /// Writes the answer to a read by a client without a session: it lists the objects, and each
    /// property is in the `missingSet` with the fault `NotAuthenticated`.
    pub fn write_unauthenticated(
        specs: &[FilterSpec],
        scope: ReadScope<'_>,
        writer: &mut Writer,
    ) -> Result<(), Fault> {
        writer.start("returnval", &[]);
        for spec in specs {
            for object in spec.select(scope)?.in_order() {
                let paths = spec.paths_for(object.kind).unwrap_or_default();
                let fault = Fault::not_authenticated();
                let readings = paths.into_iter().map(|path| (path, Err(fault.clone()))).collect();
                ObjectContent { object, readings }.write(writer, "objects");
            }
        }
        writer.end();
        Ok(())
    }

    /// `RetrieveProperties`: reads without pages, and writes one element `returnval` for each
    /// object.
    pub fn retrieve_all(
        specs: &[FilterSpec],
        scope: ReadScope<'_>,
        writer: &mut Writer,
    ) -> Result<(), Fault> {
        for spec in specs {
            let selected = spec.select(scope)?;
            if let Some(missing) = selected.missing.first() {
                return Err(Fault::not_found(missing));
            }
            for object in selected.in_order() {
                let paths = spec.paths_for(object.kind).unwrap_or_default();
                let readings = read_properties(scope, &object, &paths);
                ObjectContent { object, readings }.write(writer, "returnval");
            }
        }
        Ok(())
    }

    /// Collects the updates after `known`, which is the version of a complete update set or empty.
    fn collect_updates(
        &mut self,
        scope: ReadScope<'_>,
        known: &str,
    ) -> Result<RemainingUpdates, Fault> {
        let since = match known {
            "" => 0,
            known => known.parse().map_err(|_| invalid_version())?,
        };
        if since != 0 && !self.accepted.contains(&since) {
            return Err(invalid_version());
        }
        self.remaining = None;
        let next = self.version + 1;
        for filter in self.filters.values_mut() {
            if filter.refresh(scope, next)? {
                self.version = next;
            }
        }
        let mut updates = VecDeque::new();
        if since == self.version {
            // Nothing has changed after the version that the client knows, so no object needs a
            // look.
            return Ok(RemainingUpdates { version: self.version, part: 1, updates });
        }
        for (id, filter) in &self.filters {
            updates.extend(filter.pending(since).map(|pending| (id.clone(), pending)));
        }
        if !updates.is_empty() {
            self.accepted.retain(|accepted| *accepted == since);
        }
        Ok(RemainingUpdates { version: self.version, part: 1, updates })
    }

    /// Continues the truncated update set that the client names by its version and part. That name
    /// becomes invalid, because each part is sent once.
    fn resume(&mut self, version: &str, part: &str) -> Result<RemainingUpdates, Fault> {
        match self.remaining.take() {
            Some(remaining)
                if remaining.version.to_string() == version
                    && remaining.part.to_string() == part =>
            {
                Ok(RemainingUpdates { part: remaining.part + 1, ..remaining })
            }
            _ => Err(invalid_version()),
        }
    }

    fn write_page(&mut self, mut pages: PagedRead, token: String, writer: &mut Writer) {
        let limit = pages.size.min(pages.objects.len());
        let batch: Vec<ObjectContent> = pages.objects.drain(..limit).collect();
        // As on a real host, the answer has no `returnval` if the read found no object.
        if batch.is_empty() {
            return;
        }
        writer.start("returnval", &[]);
        if !pages.objects.is_empty() {
            writer.leaf("token", &[], &token);
            self.pages.insert(token, pages);
        }
        for content in batch {
            content.write(writer, "objects");
        }
        writer.end();
    }
}

fn invalid_version() -> Fault {
    Fault::new("InvalidCollectorVersion", "The version is not one of this collector.")
}

impl ObjectContent {
    fn write(&self, writer: &mut Writer, name: &str) {
        writer.start(name, &[]);
        Value::Reference(self.object.clone()).write_as(writer, "obj", "ManagedObject");
        for (path, reading) in &self.readings {
            if let Ok(Some(value)) = reading {
                writer.start("propSet", &[]).leaf("name", &[], path);
                value.write_any(writer, "val");
                writer.end();
            }
        }
        for (path, reading) in &self.readings {
            if let Err(fault) = reading {
                write_missing(writer, path, fault);
            }
        }
        writer.end();
    }
}
