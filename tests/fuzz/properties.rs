//! The properties of all code that reads input from outside. A property panics if it does not hold.
//!
//! The fuzz targets call a property with generated inputs. The ordinary tests call it with the
//! inputs of its corpus.

use std::path::Path;
use std::time::Duration;

use otter::api::NoParameters;
use otter::api::paging::{PagedQuery, SortKey, page};
use otter::config;
use otter::domain::duration;
use otter::domain::mac::MacAddress;
use otter::domain::screen::ScreenSize;
use otter::esx::property_cache::PropertyCache;
use otter::esx::soap::json;
use otter::esx::soap::property::{UpdateSet, object_contents};
use otter::esx::soap::response::parse_answer;
use otter::esx::soap::xml::Document;
use otter::rfb::{PixelFormat, RfbError, ServerEvent, ServerStream, ViewerEvent, ViewerStream};
use otter::service::event_stream::Version;
use otter::service::inventory::InventoryContents;
use otter::service::screens::png;
use otter::storage::JobCursor;
use otter::telnet::{Identification, Telnet, TelnetRole};

/// A property and its name, which is also the name of its fuzz target and of its corpus folder.
pub type Property = (&'static str, fn(&[u8]));

/// All properties.
pub const PROPERTIES: [Property; 11] = [
    ("soap_answers", soap_answers),
    ("update_sets", update_sets),
    ("configuration", configuration),
    ("cursors", cursors),
    ("durations", durations),
    ("macs", macs),
    ("resume_ids", resume_ids),
    ("rfb_servers", rfb_servers),
    ("rfb_viewers", rfb_viewers),
    ("pngs", pngs),
    ("telnet", telnet),
];

/// An answer is a result, a fault or an error, and a result can be converted to JSON. The first
/// byte selects the status.
pub fn soap_answers(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else { return };
    let status = [200, 500, 503, 404][usize::from(choice % 4)];
    match parse_answer(status, body, "RetrievePropertiesEx") {
        Ok(Ok(reply)) => {
            let returned = reply.return_value();
            let value = returned.map(json::to_json);
            assert_eq!(value, returned.map(json::to_json), "the conversion is deterministic");
            for content in returned.into_iter().flat_map(object_contents) {
                assert!(content.properties.len() + content.missing.len() <= body.len());
            }
            let _ = reply.reference();
        }
        // The messages are for people, so their size is limited.
        Ok(Err(fault)) => {
            let (kind, lost) = (fault.kind(), fault.may_mean_lost_session());
            let error = fault.into_error("The host refused");
            assert!(error.message.len() < 16 * 1024, "{kind:?} {lost} {}", error.message.len());
        }
        Err(error) => assert!(error.to_string().len() < 16 * 1024),
    }
}

/// Update sets that are applied one by one give the same inventory as all of them at once. NUL
/// separates the sets.
pub fn update_sets(bytes: &[u8]) {
    const SETTLE: Duration = Duration::from_secs(30);
    let (mut property_cache, mut contents, mut needs_read) =
        (PropertyCache::default(), InventoryContents::default(), false);
    for text in bytes.split(|byte| *byte == 0) {
        let Ok(document) = Document::parse(text) else { continue };
        let set = UpdateSet::from_element(document.root());
        set.objects.iter().for_each(|update| property_cache.apply(update));
        needs_read |= !property_cache.take_incomplete().is_empty();
        let _ = (property_cache.take_tasks(), property_cache.take_unauthenticated());
        (contents, _) = contents.apply(property_cache.take_facts(false), Duration::ZERO, SETTLE);
    }
    // An object that must be read again is incomplete until then.
    if needs_read {
        return;
    }
    let (complete, _) =
        InventoryContents::default().apply(property_cache.take_facts(true), Duration::ZERO, SETTLE);
    assert_eq!(contents.machines, complete.machines);
    assert_eq!(contents.datastores, complete.datastores);
}

/// Every problem of a configuration file has a message.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for problem in config::find_problems(text, Path::new("otter.toml")) {
        assert!(!problem.message.trim().is_empty());
    }
}

/// A cursor that is accepted has the text that otter writes for it.
pub fn cursors(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(cursor) = text.parse::<JobCursor>() {
        assert_eq!(cursor.to_string(), text);
    }
    let cursors = |text: &str| {
        let escaped: Vec<String> = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let uri = format!("/?cursor={}", escaped.concat()).parse().ok()?;
        PagedQuery::<NoParameters>::read(&uri).ok().map(|paged| paged.cursors)
    };
    let Some(cursor) = cursors(text) else { return };
    let items = vec![("alpha", "1"), ("beta", "2"), ("gamma", "3")];
    let key = |item: &(&str, &str)| SortKey(item.0.to_owned(), item.1.to_owned());
    if let Ok(first) = page(&cursor, items.clone(), key, Some(1)) {
        assert!(first.items.len() <= 1);
        let next = first.next.as_deref();
        assert_eq!(next.is_some(), first.items.first().is_some_and(|item| *item != ("gamma", "3")));
        if let (Some(next), Some(text_of_address)) = (next, first.items.first()) {
            let second = cursors(next).and_then(|next| page(&next, items, key, None).ok());
            let second = second.map(|page| page.items).unwrap_or_default();
            assert!(
                !second.is_empty() && !second.contains(text_of_address),
                "a page begins after the end of the last page"
            );
        }
    }
}

/// A duration is the same after it is written and read again.
pub fn durations(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match duration::parse(text) {
        Ok(read) => {
            assert!(read <= duration::MAX_DURATION);
            assert_eq!(duration::parse(&duration::format(read)), Ok(read));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// An address is the same after it is written and read again.
pub fn macs(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(address) = text.parse::<MacAddress>() {
        let text_of_address = address.to_string();
        assert_eq!((text_of_address.len(), text_of_address.parse()), (17, Ok(address)));
        assert_eq!(text.to_uppercase().parse(), Ok(address), "the case does not matter");
    }
}

/// A version that is accepted has the text that otter writes for it.
pub fn resume_ids(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(version) = text.parse::<Version>() {
        assert_eq!(version.to_string(), text);
    }
}

/// What a server sends gives the same events in every splitting. Every rectangle has its pixels and
/// is on the screen. The first byte says whether a handshake comes before the bytes, and the second
/// one how they are split.
pub fn rfb_servers(bytes: &[u8]) {
    const HANDSHAKE: &[u8] = b"RFB 003.008\n\x01\x01\0\0\0\0\x02\xd0\x01\x90\
        \x20\x18\0\x01\0\xff\0\xff\0\xff\x10\x08\0\0\0\0\0\0\0\x03lab";
    let &[choice, step, ref sent @ ..] = bytes else { return };
    let begin = if choice % 2 == 0 { HANDSHAKE } else { &[] };
    let sent = [begin, sent].concat();
    let read = |step: usize| {
        let mut stream = ServerStream::new();
        let (mut events, mut answers, mut largest) = (Vec::new(), Vec::new(), 0);
        for part in sent.chunks(step) {
            stream.feed(part);
            let end = events_of(|| stream.next_event(), &mut events);
            answers.extend(stream.to_send());
            largest = largest.max(stream.buffered_bytes());
            if let Err(error) = end {
                return (events, answers, largest, Some(error));
            }
        }
        (events, answers, largest, None)
    };
    let (events, answers, largest, error) = read(sent.len().max(1));
    let (events_of_parts, answers_of_parts, _, error_of_parts) = read(usize::from(step).max(1));
    assert_eq!((&events, &answers), (&events_of_parts, &answers_of_parts));
    assert_eq!(error, error_of_parts);
    assert!(largest <= sent.len());
    assert!(error.is_none_or(|error| !error.to_string().is_empty()));
    let mut screen = ScreenSize::new(0, 0);
    for event in events {
        match event {
            ServerEvent::Ready { size, .. } | ServerEvent::Resize(size) => {
                assert!(size.is_allowed());
                screen = size;
            }
            ServerEvent::Rectangle { region, pixels } => {
                assert!(region.is_within(screen));
                assert_eq!(pixels.len(), region.size().bytes());
            }
            ServerEvent::Copy { region, .. } => assert!(region.is_within(screen)),
            ServerEvent::UpdateEnd | ServerEvent::Bell | ServerEvent::CutText => {}
        }
    }
}

/// What a viewer sends gives the same events in every splitting, and every pixel format that is
/// accepted has room for all colours. The first byte says whether a handshake comes before the
/// bytes, and the second one how they are split.
pub fn rfb_viewers(bytes: &[u8]) {
    let &[choice, step, ref sent @ ..] = bytes else { return };
    let begin: &[u8] = if choice % 2 == 0 { b"RFB 003.008\n\x01\x01" } else { &[] };
    let sent = [begin, sent].concat();
    let read = |step: usize| {
        let mut stream = ViewerStream::new();
        let (mut events, mut answers) = (Vec::new(), stream.to_send());
        for part in sent.chunks(step) {
            stream.feed(part);
            let end = events_of(|| stream.next_event(), &mut events);
            answers.extend(stream.to_send());
            if let Err(error) = end {
                return (events, answers, Some(error));
            }
        }
        (events, answers, None)
    };
    let (events, answers, error) = read(sent.len().max(1));
    let of_parts = read(usize::from(step).max(1));
    assert_eq!((&events, &answers, &error), (&of_parts.0, &of_parts.1, &of_parts.2));
    assert!(error.is_none_or(|error| !error.to_string().is_empty()));
    for event in events {
        if let ViewerEvent::PixelFormat(format) = event {
            assert_eq!(PixelFormat::from_bytes(format.to_bytes()), Ok(format));
            let mut encoded = Vec::new();
            format.encode(&[0, 128, 255, 0, 255, 1, 254, 0], &mut encoded);
            assert_eq!(encoded.len(), 2 * format.bytes_per_pixel());
        }
    }
}

/// Takes all events that are there.
fn events_of<Event>(
    mut next: impl FnMut() -> Result<Option<Event>, RfbError>,
    events: &mut Vec<Event>,
) -> Result<(), RfbError> {
    while let Some(event) = next()? {
        events.push(event);
    }
    Ok(())
}

/// A picture that is decoded is the same after it is encoded and decoded again.
pub fn pngs(bytes: &[u8]) {
    match png::decode(bytes) {
        Ok(picture) => {
            assert!(picture.size.is_allowed());
            assert!(picture.size.pixels() <= png::MAX_PIXELS);
            // Large pictures only cost time.
            if picture.size.pixels() <= 1 << 16 {
                let again = png::encode(&picture).and_then(|bytes| png::decode(&bytes));
                assert_eq!(again.ok(), Some(picture));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Telnet that comes in pieces gives the same data, sub-options and answers as all of it at once.
/// Data that was encoded is received as it was. The first byte selects the role, and the second the
/// length of the pieces.
pub fn telnet(bytes: &[u8]) {
    let &[choice, step, ref sent @ ..] = bytes else { return };
    let role = if choice % 2 == 0 { TelnetRole::Client } else { TelnetRole::Concentrator };
    let read = |step: usize| {
        let mut telnet = Telnet::new(role);
        let (mut data, mut said, mut answers) = (Vec::new(), Vec::new(), telnet.to_send());
        for part in sent.chunks(step) {
            said.extend(telnet.receive(part, &mut data));
            answers.extend(telnet.to_send());
        }
        (data, said, answers)
    };
    let (data, said, answers) = read(sent.len().max(1));
    let (data_of_parts, said_of_parts, answers_of_parts) = read(usize::from(step).max(1));
    assert_eq!((&data, &said), (&data_of_parts, &said_of_parts));
    // Answers to more than this at once are dropped.
    if sent.len() <= 8 * 1024 {
        assert_eq!(answers, answers_of_parts);
    }
    let of_suboptions: usize = said.iter().map(|one| one.payload.len()).sum();
    assert!(data.len() + of_suboptions <= sent.len());
    let (mut telnet, mut machine) = (Telnet::new(role), Identification::default());
    for one in &said {
        machine.ask(&mut telnet);
        machine.take(&mut telnet, one);
    }
    machine.decide(&mut telnet, choice % 4 < 2);
    assert!(machine.uuid.is_none_or(|uuid| uuid.len() <= 3 * sent.len()));
    let (mut encoded, mut received) = (Vec::new(), Vec::new());
    telnet.encode(sent, &mut encoded);
    let mut other = Telnet::new(TelnetRole::Client);
    // It sends every byte as it is (WILL BINARY).
    other.receive(&[255, 251, 0], &mut received);
    assert!(other.receive(&encoded, &mut received).is_empty());
    assert_eq!(received, *sent);
}
