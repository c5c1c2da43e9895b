//! `POST /v1/leases`

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::header::{CACHE_CONTROL, LOCATION};
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::wire::{Lease, PrepareRequest, RecordRequest, ReleaseRequest, SelectRequest};
use crate::api::extract::{
    JsonBody, NoParameters, Query, check_printable_field, duration_text, failure_in_body,
    some_duration_text,
};
use crate::api::machines::boot::parse_boot;
use crate::api::machines::iso::checked_iso;
use crate::api::openapi_parts::Problems;
use crate::api::problem::ApiError;
use crate::api::start_job::{IDEMPOTENT_REPLAYED, read_idempotency_key, read_reference};
use crate::api::{ApiState, links, respond};
use crate::domain::duration;
use crate::domain::failure::Failure;
use crate::domain::lease::{InvalidReadiness, LeaseState, Prepare, Readiness, Release, Select};
use crate::domain::machine_reference::{InvalidMachineReference, MachineReference};
use crate::domain::machine_uuid::parse_uuid;
use crate::domain::network::Network;
use crate::domain::power::PowerState;
use crate::domain::recording::{PortChoice, Record};
use crate::service::callers::Caller;
use crate::service::leases::{NewLease, RequestedLease};
use crate::service::machines::shorten;

/// A request for a lease.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    select: SelectRequest,
    /// Who or what uses the machine, as a text for people, at most 255 characters. Default: the
    /// name of the token.
    #[schema(nullable = false, example = "nightly 4711")]
    holder: Option<String>,
    /// How long the lease lasts after it becomes active.
    #[schema(example = "30m")]
    #[serde(deserialize_with = "duration_text")]
    ttl: String,
    /// How long the lease may be queued. Default: the lease is not queued, and the request fails
    /// unless a matching machine is free now.
    #[schema(nullable = false, example = "10m")]
    #[serde(default, deserialize_with = "some_duration_text")]
    queue_for: Option<String>,
    /// The state into which otter puts the machine before the lease is active. Default: the state
    /// that the configuration of the selected pool gives. Without such a state, otter does not
    /// change the machine.
    #[schema(nullable = false)]
    prepare: Option<PrepareRequest>,
    /// The state into which otter puts the machine after the lease. Default: the state that the
    /// configuration of the selected pool gives, else `{"power": "off"}`.
    #[schema(nullable = false)]
    release: Option<ReleaseRequest>,
    /// What otter records while the lease is active. Default: what the configuration of the
    /// selected pool gives, else nothing.
    #[schema(nullable = false)]
    record: Option<RecordRequest>,
    /// How long people can examine the machine if its use fails, as `DELETE …?outcome=failed`
    /// reports. The lease never lasts longer than until `max_expires_at`. Default: otter then
    /// releases the machine at once.
    #[schema(nullable = false, example = "4h")]
    #[serde(default, deserialize_with = "some_duration_text")]
    keep_on_failure: Option<String>,
}

/// The headers of a request for a lease.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents the headers")]
pub struct CreateHeaders {
    /// A key that the client chooses, at most 255 characters. A repeat of the request with the same
    /// key and body returns the lease of the first request, with its secret.
    #[param(rename = "Idempotency-Key", value_type = String, required = false)]
    idempotency_key: Option<String>,
    /// A text of the client, at most 512 characters, for example the URL of a CI job. otter stores
    /// it with the lease.
    #[param(rename = "Otter-Reference", value_type = String, required = false)]
    otter_reference: Option<String>,
}

/// The largest number of characters of a holder.
const MAX_HOLDER: usize = 255;
/// The largest number of pools in `select.pools`, and of machines in `select.exclude`.
const MAX_SELECTED: usize = 100;
/// The largest number of serial ports in `record.serial`.
const MAX_PORTS: usize = 32;

/// Take a machine
///
/// Grants the matching free machine whose last lease ended longest ago. Returns at once: 201 if the
/// lease is `preparing` or `active`, 202 if it is `queued`, which needs `queue_for`. To wait until
/// the lease is active, call `GET /v1/leases/{lease}/wait`.
#[utoipa::path(post, path = "/v1/leases", operation_id = "create_lease", tag = "leases",
    params(CreateHeaders),
    request_body = LeaseRequest,
    responses(
        (status = 201, description = "A machine was granted", body = Lease),
        (status = 202, description = "The lease is queued", body = Lease),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "request-timeout",
        "payload-too-large", "unsupported-media-type", "idempotency-mismatch", "no-free-machine",
        "queue-full", "inventory-loading", "storage-unavailable", "outcome-unknown",
        "shutting-down", "not-supported", "no-drive"
    ]))))]
pub async fn create_lease(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    _: Query<NoParameters>,
    JsonBody { value, bytes }: JsonBody<LeaseRequest>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let key = read_idempotency_key(&api, &caller, &method, &uri, &headers, &bytes)?;
    let mut new = NewLease { key, reference: read_reference(&headers)?, ..new_lease(value)? };
    if let Some(Prepare { iso: Some(iso), .. }) = &mut new.prepare {
        *iso = checked_iso(&api, &caller, "/prepare/iso", iso)?;
    }
    if let Some(Prepare { until: Some(Readiness::Screen(_)), .. }) = &new.prepare {
        api.services().screen_waits.ocr().check_installed()?;
    }
    let (view, is_replay) = match api.services().leases.request(&caller, new).await? {
        RequestedLease::New(view) => (view, false),
        RequestedLease::Existing(view) => (view, true),
    };
    let lease = Lease::from_view(&view, Some(api.services().leases.secret_of(view.lease.id)));
    let mut response = respond::object(&api, &version, &lease);
    *response.status_mut() = status_for(view.lease.state);
    // No cache may store the response, because its body has the secret of the lease.
    respond::set(&mut response, CACHE_CONTROL, "no-store");
    respond::set(&mut response, LOCATION, &links::lease(view.lease.id));
    if is_replay {
        respond::set(&mut response, IDEMPOTENT_REPLAYED, "true");
    }
    if view.lease.state == LeaseState::Queued {
        respond::set(&mut response, HeaderName::from_static("retry-after"), "1");
    }
    Ok(response)
}

const fn status_for(state: LeaseState) -> StatusCode {
    match state {
        LeaseState::Queued => StatusCode::ACCEPTED,
        _ => StatusCode::CREATED,
    }
}

fn new_lease(request: LeaseRequest) -> Result<NewLease, Failure> {
    let LeaseRequest { select, holder, ttl, queue_for, prepare, release, record, keep_on_failure } =
        request;
    let holder = holder.map(|holder| non_empty("/holder", holder)).transpose()?;
    if holder.as_ref().is_some_and(|holder| holder.chars().count() > MAX_HOLDER) {
        let detail = format!("holder is longer than {MAX_HOLDER} characters.");
        return Err(failure_in_body("/holder", "out-of-range", detail));
    }
    holder.as_deref().map_or(Ok(()), |holder| check_printable_field("/holder", holder))?;
    Ok(NewLease {
        select: parse_select(select)?,
        holder,
        ttl: parse_time("/ttl", &ttl)?,
        queue_for: queue_for.map(|text| parse_time("/queue_for", &text)).transpose()?,
        prepare: prepare.map(parse_prepare).transpose()?,
        release: release.map(parse_release).transpose()?,
        record: record.map(parse_record).transpose()?,
        keep_on_failure: keep_on_failure
            .map(|text| parse_time("/keep_on_failure", &text))
            .transpose()?,
        reference: None,
        key: None,
    })
}

fn parse_select(request: SelectRequest) -> Result<Select, Failure> {
    let SelectRequest {
        machine,
        name,
        mac,
        pool,
        pools,
        exclude,
        memory_bytes_at_least,
        nested_virtualization,
    } = request;
    if pool.is_some() && pools.is_some() {
        let detail = "select.pool and select.pools are both set; set one of them.".to_owned();
        return Err(failure_in_body("/select/pools", "not-with-this", detail));
    }
    if pools.as_ref().is_some_and(Vec::is_empty) {
        let detail = "select.pools is empty; name a pool.".to_owned();
        return Err(failure_in_body("/select/pools", "empty", detail));
    }
    if memory_bytes_at_least == Some(0) {
        let detail = "select.memory_bytes_at_least is 0; it must be at least 1.".to_owned();
        return Err(failure_in_body("/select/memory_bytes_at_least", "out-of-range", detail));
    }
    let pools = bounded("/select/pools", pools.unwrap_or_default())?;
    let exclude = bounded("/select/exclude", exclude.unwrap_or_default())?;
    let mac = mac.map(|mac| {
        mac.parse().map_err(|error| {
            let detail = format!("select.mac is {}: {error}.", shorten(&mac));
            failure_in_body("/select/mac", "invalid-mac", detail)
        })
    });
    let select = Select {
        machine: machine.map(|machine| parse_reference("/select/machine", &machine)).transpose()?,
        name: name.map(|name| non_empty("/select/name", name)).transpose()?,
        mac: mac.transpose()?,
        pool: pool.map(|pool| non_empty("/select/pool", pool)).transpose()?,
        pools: pools.map(|(pointer, pool)| non_empty(&pointer, pool)).collect::<Result<_, _>>()?,
        exclude: exclude
            .map(|(pointer, machine)| parse_excluded(&pointer, &machine))
            .collect::<Result<_, _>>()?,
        memory_bytes_at_least,
        nested_virtualization,
    };
    if select.is_empty() {
        let detail = "select selects nothing; set machine, name, mac, pool, pools, \
                      memory_bytes_at_least or nested_virtualization."
            .to_owned();
        return Err(failure_in_body("/select", "empty", detail));
    }
    Ok(select)
}

/// The elements of a list, each with its JSON pointer.
///
/// # Errors
/// `invalid-request` if the list has more elements than [`MAX_SELECTED`].
fn bounded(
    pointer: &'static str,
    list: Vec<String>,
) -> Result<impl Iterator<Item = (String, String)>, Failure> {
    if list.len() > MAX_SELECTED {
        let detail = format!(
            "{} has {} elements; it may have at most {MAX_SELECTED}.",
            field_name(pointer),
            list.len()
        );
        return Err(failure_in_body(pointer, "out-of-range", detail));
    }
    let at = move |(index, text)| (format!("{pointer}/{index}"), text);
    Ok(list.into_iter().enumerate().map(at))
}

fn parse_reference(pointer: &str, text: &str) -> Result<MachineReference, Failure> {
    let name = field_name(pointer);
    text.parse().map_err(|error| match error {
        InvalidMachineReference::Empty => {
            failure_in_body(pointer, "empty", format!("{name} is empty; name a machine."))
        }
        InvalidMachineReference::Mac(error) => {
            let detail = format!("{name} is {}: {error}.", shorten(text));
            failure_in_body(pointer, "invalid-mac", detail)
        }
    })
}

/// Parses one entry of `select.exclude`. Refuses a malformed UUID, because it would exclude no
/// machine.
fn parse_excluded(pointer: &str, text: &str) -> Result<MachineReference, Failure> {
    let reference = parse_reference(pointer, text)?;
    if let MachineReference::Uuid(uuid) = &reference
        && parse_uuid(uuid).is_none()
    {
        let detail = format!(
            "{} is {}: not a UUID, which has 32 hexadecimal digits.",
            field_name(pointer),
            shorten(text)
        );
        return Err(failure_in_body(pointer, "invalid-uuid", detail));
    }
    Ok(reference)
}

fn parse_prepare(request: PrepareRequest) -> Result<Prepare, Failure> {
    let PrepareRequest { snapshot, iso, boot, power, until, cidr, settle } = request;
    let power = power.map(|name| match name.as_str() {
        "on" => Ok(PowerState::On),
        "off" => Ok(PowerState::Off),
        other => {
            let detail = format!("prepare.power is {}; write on or off.", shorten(other));
            Err(failure_in_body("/prepare/power", "not-one-of", detail))
        }
    });
    let until = until.map(|name| {
        Readiness::parse(&name).map_err(|error| {
            let detail = format!(
                "prepare.until is {}, which {error}; write power_state:on, ip, tools, \
                 screen:<text> or serial:<text>.",
                shorten(&name)
            );
            let code = match error {
                InvalidReadiness::Unknown => "not-one-of",
                InvalidReadiness::Text(_) => "invalid-text",
            };
            failure_in_body("/prepare/until", code, detail)
        })
    });
    let cidr = cidr.map(|text| {
        text.parse::<Network>().map_err(|error| {
            let detail = format!("prepare.cidr is {}; {error}.", shorten(&text));
            failure_in_body("/prepare/cidr", "not-a-network", detail)
        })
    });
    let prepare = Prepare {
        snapshot: snapshot.map(|snapshot| non_empty("/prepare/snapshot", snapshot)).transpose()?,
        iso: iso.map(|iso| non_empty("/prepare/iso", iso)).transpose()?,
        boot: boot.map(|boot| parse_boot("/prepare/boot", boot)).transpose()?,
        power: power.transpose()?,
        until: until.transpose()?,
        cidr: cidr.transpose()?,
        settle: settle.map(|text| parse_time("/prepare/settle", &text)).transpose()?,
    };
    if prepare.until.is_some() && prepare.power == Some(PowerState::Off) {
        let detail =
            "prepare.until waits for a machine that is on, but prepare.power is off.".to_owned();
        return Err(failure_in_body("/prepare/until", "not-applicable", detail));
    }
    if prepare.cidr.is_some() && prepare.until != Some(Readiness::Address) {
        let detail =
            "prepare.cidr is the network of the address that prepare.until waits for; set \
                      prepare.until to ip."
                .to_owned();
        return Err(failure_in_body("/prepare/cidr", "not-applicable", detail));
    }
    if prepare.until.is_some() && prepare.power.is_none() && prepare.snapshot.is_none() {
        let detail =
            "prepare.until waits for a machine that is on, but a free machine is off; set \
                      prepare.power to on, or prepare.snapshot to a snapshot that is on."
                .to_owned();
        return Err(failure_in_body("/prepare/until", "not-applicable", detail));
    }
    Ok(prepare)
}

fn parse_release(request: ReleaseRequest) -> Result<Release, Failure> {
    let ReleaseRequest { power, snapshot } = request;
    let keep_power = match power.as_deref() {
        None | Some("off") => false,
        Some("keep") => true,
        Some(other) => {
            let detail = format!("release.power is {}; write off or keep.", shorten(other));
            return Err(failure_in_body("/release/power", "not-one-of", detail));
        }
    };
    let snapshot = snapshot.map(|snapshot| non_empty("/release/snapshot", snapshot)).transpose()?;
    Ok(Release { keep_power, snapshot })
}

fn parse_record(request: RecordRequest) -> Result<Record, Failure> {
    let RecordRequest { screen, serial } = request;
    let serial = serial.unwrap_or_default();
    if serial.len() > MAX_PORTS {
        let detail = format!(
            "record.serial has {} elements; it may have at most {MAX_PORTS}.",
            serial.len()
        );
        return Err(failure_in_body("/record/serial", "out-of-range", detail));
    }
    let parse = |(index, port): (usize, String)| {
        PortChoice::parse(&port).map_err(|error| {
            let pointer = format!("/record/serial/{index}");
            let detail = format!("{} is {}, which {error}.", field_name(&pointer), shorten(&port));
            failure_in_body(&pointer, "not-a-port", detail)
        })
    };
    let serial = serial.into_iter().enumerate().map(parse).collect::<Result<_, _>>()?;
    Ok(Record { screen: screen.unwrap_or_default(), serial })
}

pub(super) fn parse_time(pointer: &str, text: &str) -> Result<Duration, Failure> {
    let name = field_name(pointer);
    let time = duration::parse(text).map_err(|error| {
        failure_in_body(pointer, "not-a-duration", format!("{name} is {}: {error}.", shorten(text)))
    })?;
    if time.is_zero() {
        return Err(failure_in_body(pointer, "out-of-range", format!("{name} is zero.")));
    }
    Ok(time)
}

fn non_empty(pointer: &str, text: String) -> Result<String, Failure> {
    if text.is_empty() {
        let detail = format!("{} is empty.", field_name(pointer));
        return Err(failure_in_body(pointer, "empty", detail));
    }
    Ok(text)
}

/// The name of a field in texts: `select.pool` for `/select/pool`.
fn field_name(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}
