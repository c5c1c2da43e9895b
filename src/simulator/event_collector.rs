//! `EventHistoryCollector`: a filter over the events of the host, its latest page, and a read
//! position.
//!
//! ```text
//! oldest ── … ──┊── … ── newest     ┊ is the position: ReadNextEvents goes right from it,
//!  rewind ┘                └ reset                     ReadPreviousEvents goes left
//! ```

use jiff::Timestamp;

use super::properties;
use super::schema;
use super::soap;
use super::value::{Moref, Object, enum_value, texts};
use super::vim_fault::Fault;
use super::world::{HostEvent, World};
use crate::esx::soap::xml::Element;

/// The number of events in the latest page of a collector, unless its client sets another number.
/// `MAX_PAGE_SIZE` is the maximum size of every page.
const DEFAULT_PAGE_SIZE: usize = 10;
const MAX_PAGE_SIZE: usize = 1_000;

/// An event collector of a session.
#[derive(Debug)]
pub struct EventCollector {
    pub filter: EventFilter,
    page_size: usize,
    /// The read position, as the key of the first event that lies after the position.
    position: i32,
}

/// The filter of an event collector, which clients send as an `EventFilterSpec`.
#[derive(Debug)]
pub struct EventFilter {
    entity: Option<(Moref, Recursion)>,
    /// The times of the earliest and of the latest event that match. `None` sets no limit.
    after: Option<Timestamp>,
    before: Option<Timestamp>,
    /// Whether events without a user match, and the users whose events match. An empty list of
    /// users means every user. `None` means that the filter does not look at users.
    users: Option<(bool, Vec<String>)>,
    chain: Option<i32>,
    categories: Vec<String>,
    /// The types of the events that match. An event of a derived type matches too. An empty list
    /// means every type.
    types: Vec<String>,
    max_count: Option<usize>,
}

/// `EventFilterSpecRecursionOption`: whether a filter selects the events of an entity itself, of
/// its children, or of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recursion {
    Itself,
    Children,
    All,
}

impl EventCollector {
    /// The maximum number of event collectors in a session.
    pub const MAX_PER_SESSION: usize = 32;

    /// A collector that has read nothing: `ReadNextEvents` starts at the oldest event that matches
    /// the filter.
    pub fn new(filter: EventFilter) -> Self {
        let page_size = filter.max_count.unwrap_or(DEFAULT_PAGE_SIZE);
        Self { filter, page_size, position: 0 }
    }

    /// The latest page: the newest events that match the filter, newest first.
    pub fn latest<'w>(&self, world: &'w World) -> Vec<&'w HostEvent> {
        self.filter.matching(world).rev().take(self.page_size).collect()
    }

    /// `ReadNextEvents`: up to `limit` events after the read position, oldest first. The read
    /// position moves behind them.
    pub fn read_next<'w>(&mut self, world: &'w World, limit: usize) -> Vec<&'w HostEvent> {
        let position = self.position;
        let read: Vec<_> =
            self.filter.matching(world).filter(|event| event.key >= position).take(limit).collect();
        if let Some(last) = read.last() {
            self.position = last.key + 1;
        }
        read
    }

    /// `ReadPreviousEvents`: up to `limit` events before the read position, newest first. The read
    /// position moves before them.
    pub fn read_previous<'w>(&mut self, world: &'w World, limit: usize) -> Vec<&'w HostEvent> {
        let position = self.position;
        let read: Vec<_> = self
            .filter
            .matching(world)
            .rev()
            .filter(|event| event.key < position)
            .take(limit)
            .collect();
        if let Some(last) = read.last() {
            self.position = last.key;
        }
        read
    }

    /// `RewindCollector`: moves the read position before the oldest event.
    pub const fn rewind(&mut self) {
        self.position = 0;
    }

    /// `ResetCollector`: moves the read position behind the newest event.
    pub const fn reset(&mut self, world: &World) {
        self.position = world.history().last_key() + 1;
    }

    /// `SetCollectorPageSize`: sets the number of events in the latest page.
    pub const fn set_page_size(&mut self, page_size: usize) {
        self.page_size = page_size;
    }
}

impl EventFilter {
    /// Reads an `EventFilterSpec`.
    ///
    /// # Errors
    /// `InvalidArgument` if a field has an invalid value.
    pub fn read(spec: Element<'_>) -> Result<Self, Fault> {
        let texts = |name| spec.children_named(name).map(|child| child.text().trim().to_owned());
        let entity = match spec.child("entity") {
            None => None,
            Some(by_entity) => {
                let entity =
                    by_entity.child("entity").ok_or_else(|| Fault::invalid_argument("entity"))?;
                let recursion = match by_entity.child_text("recursion") {
                    Some("self") => Recursion::Itself,
                    Some("children") => Recursion::Children,
                    Some("all") => Recursion::All,
                    _ => return Err(Fault::invalid_argument("filter.entity.recursion")),
                };
                Some((soap::read_moref(entity)?, recursion))
            }
        };
        let users = spec.child("userName").map(|users| {
            let list =
                users.children_named("userList").map(|user| user.text().to_owned()).collect();
            (users.child_text("systemUser").is_some_and(soap::is_true), list)
        });
        let chain = match spec.child_text("eventChainId").map(str::trim) {
            None | Some("") => None,
            Some(text) => {
                Some(text.parse().map_err(|_| Fault::invalid_argument("filter.eventChainId"))?)
            }
        };
        // An `eventTypeId` may begin with the package of the event type, as in
        // `vim.event.VmPoweredOnEvent`. Only the last part is the name of the type.
        let ids =
            texts("eventTypeId").map(|id| id.rsplit('.').next().unwrap_or_default().to_owned());
        Ok(Self {
            entity,
            after: time(spec, "beginTime")?,
            before: time(spec, "endTime")?,
            users,
            chain,
            categories: texts("category").collect(),
            types: texts("type").chain(ids).collect(),
            max_count: spec
                .child_text("maxCount")
                .map(|text| page_size(text, "filter.maxCount"))
                .transpose()?,
        })
    }

    /// The filter as the vim25 object `EventFilterSpec`.
    pub fn object(&self) -> Object {
        let entity = self.entity.as_ref().map(|(entity, recursion)| {
            Object::new("EventFilterSpecByEntity")
                .with("entity", entity)
                .with("recursion", enum_value("EventFilterSpecRecursionOption", recursion.as_str()))
        });
        let has_time = self.after.is_some() || self.before.is_some();
        let time = has_time.then(|| {
            Object::new("EventFilterSpecByTime")
                .with("beginTime", self.after)
                .with("endTime", self.before)
        });
        let users = self.users.as_ref().map(|(system, users)| {
            Object::new("EventFilterSpecByUsername")
                .with("systemUser", *system)
                .with("userList", texts(users.clone()))
        });
        Object::new("EventFilterSpec")
            .with("entity", entity)
            .with("time", time)
            .with("userName", users)
            .with("eventChainId", self.chain)
            .with("category", texts(self.categories.clone()))
            .with("eventTypeId", texts(self.types.clone()))
            .with("maxCount", self.max_count.and_then(|limit| i32::try_from(limit).ok()))
    }

    /// The events of the host that match the filter, oldest first.
    fn matching<'w>(&self, world: &'w World) -> impl DoubleEndedIterator<Item = &'w HostEvent> {
        world.history().events().filter(|event| self.is_match(event))
    }

    fn is_match(&self, event: &HostEvent) -> bool {
        let kind = properties::event_type(event);
        let category = properties::event_category(event);
        let by_user = |(system, users): &(bool, Vec<String>)| {
            if event.user.is_empty() {
                *system
            } else {
                users.is_empty() || users.contains(&event.user)
            }
        };
        self.entity.as_ref().is_none_or(|(entity, recursion)| is_about(event, entity, *recursion))
            && self.after.is_none_or(|after| event.at >= after)
            && self.before.is_none_or(|before| event.at <= before)
            && self.users.as_ref().is_none_or(by_user)
            && self.chain.is_none_or(|chain| event.chain == chain)
            && (self.categories.is_empty()
                || self.categories.iter().any(|selected| selected == category))
            && (self.types.is_empty()
                || self.types.iter().any(|selected| schema::is_a(kind, selected)))
    }
}

impl Recursion {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Itself => "self",
            Self::Children => "children",
            Self::All => "all",
        }
    }
}

/// Reads a page size, such as the `maxCount` of a call: a number from 1 to 1,000.
///
/// # Errors
/// `InvalidArgument`, which names `parameter`, if the number is out of range.
pub fn page_size(text: &str, parameter: &str) -> Result<usize, Fault> {
    text.trim()
        .parse()
        .ok()
        .filter(|size| (1..=MAX_PAGE_SIZE).contains(size))
        .ok_or_else(|| Fault::invalid_argument(parameter))
}

/// Whether an event is about `entity` or about a machine in it, as far as `recursion` asks. Events
/// about no machine belong to the root folder.
fn is_about(event: &HostEvent, entity: &Moref, recursion: Recursion) -> bool {
    const HOLD_MACHINES: [&str; 6] = [
        "ha-folder-root",
        "ha-datacenter",
        "ha-folder-vm",
        "ha-compute-res",
        "ha-host",
        "ha-root-pool",
    ];
    let is_itself = match &event.machine {
        Some(machine) => entity.kind == "VirtualMachine" && entity.id == machine.id,
        None => entity.id == "ha-folder-root",
    };
    let is_within = event.machine.is_some() && HOLD_MACHINES.contains(&&*entity.id);
    match recursion {
        Recursion::Itself => is_itself,
        Recursion::Children => is_within,
        Recursion::All => is_itself || is_within,
    }
}

fn time(spec: Element<'_>, name: &str) -> Result<Option<Timestamp>, Fault> {
    match spec.descend(&["time", name]).map(|element| element.text().trim()) {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| Fault::invalid_argument("filter.time")),
    }
}
