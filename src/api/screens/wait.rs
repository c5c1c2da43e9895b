//! `POST /v1/machines/{machine}/screen/wait`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::LookHeaders;
use super::wait_request::{MAX_BODY, ScreenWaitRequest, checked};
use crate::api::condition_fields::in_words;
use crate::api::extract::{JsonBody, NoParameters, Parsed, Query, Segment, failure_in_body};
use crate::api::lease_authorization::read_authorization;
use crate::api::long_poll::{WaitEnd, WaitMode, WaitPermit};
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::ApiError;
use crate::api::{ApiState, links, respond};
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::domain::machine::Machine;
use crate::service::callers::Caller;
use crate::service::jobs::authorization::Requester;
use crate::service::machines::shorten;
use crate::service::screens::conditions::{ScreenCondition, ScreenConditions, Subject};
use crate::service::screens::wait::{
    FIRST_TEST_LIMIT, Matched, RightCheck, ScreenMatch, Seen, Sight, WaitTerms,
};

/// The longest time of a call that tests once: it may open a connection, and read a text.
pub const ONCE_LIMIT: Duration = Duration::from_secs(40);

/// The time limit.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ScreenWaitQuery {
    /// The longest time that this call waits: `30s`, `10m`. At most `http.max_wait`. A wait below
    /// 10 s may last up to 10 s, until each condition was tested once. Without it, each condition
    /// is tested once.
    #[param(value_type = Option<String>)]
    wait: Option<Parsed<Duration>>,
}

/// The end of a wait whose condition holds.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScreenWaitResult {
    /// The condition that holds. Null if the wait was only for a still screen.
    #[schema(required)]
    pub matched: Option<ScreenMatched>,
    /// When the screen last changed, as it is in the frame that matched.
    pub changed_at: Timestamp,
    /// `machine`, and `screen`: its picture.
    pub links: BTreeMap<String, String>,
}

/// The condition that holds, and where on the screen.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScreenMatched {
    /// The position of the condition in `any`, from 0.
    #[schema(example = 0)]
    pub index: u32,
    /// The name that the request gave the condition.
    #[schema(required, example = "terminal")]
    pub name: Option<String>,
    /// The text that matched, as it was recognized. Null for images and absent conditions.
    #[schema(required, example = "Terminal")]
    pub text: Option<String>,
    /// Pixels from the left. Null for absent conditions.
    #[schema(required, example = 12)]
    pub x: Option<u16>,
    /// Pixels from the top. Null for absent conditions.
    #[schema(required, example = 40)]
    pub y: Option<u16>,
    /// The width in pixels. Null for absent conditions.
    #[schema(required, example = 80)]
    pub width: Option<u16>,
    /// The height in pixels. Null for absent conditions.
    #[schema(required, example = 16)]
    pub height: Option<u16>,
    /// How similar the image is, from 0 to 1. Null for texts and absent conditions.
    #[schema(required, example = 0.99)]
    pub similarity: Option<f64>,
}

/// Wait for what the screen shows
///
/// Waits until the screen shows a text or a picture, does not show it, or is still, and returns the
/// condition that holds. Changes nothing, and may be repeated. A check starts when the screen has
/// changed and was still for 300 ms, at most 2 s behind a region that blinks.
///
/// 504 `wait-timeout` if the time is up first: `seen` has the last text, and `links.screen` the
/// last picture, which otter keeps for an hour. 409 at once if no screen can come.
#[utoipa::path(
    post,
    path = "/v1/machines/{machine}/screen/wait",
    operation_id = "wait_for_screen",
    tag = "screens",
    params(MachinePath, ScreenWaitQuery, LookHeaders),
    request_body = ScreenWaitRequest,
    responses(
        (status = 200, description = "The condition that holds", body = ScreenWaitResult),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "request-timeout",
        "payload-too-large", "unsupported-media-type", "forbidden", "machine-leased",
        "lease-ended", "lease-not-active", "self-protection", "invalid-power-state",
        "machine-gone", "inventory-loading", "host-unreachable", "host-login-refused",
        "console-unavailable", "too-many-consoles", "not-supported", "too-many-waits",
        "wait-timeout", "shutting-down"
    ]))))]
pub async fn wait_for_screen(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Segment(reference): Segment,
    Query(query, NoParameters {}): Query<ScreenWaitQuery>,
    JsonBody { value, .. }: JsonBody<ScreenWaitRequest, MAX_BODY>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let requester = read_authorization(&api, &caller, &headers)?;
    let wake = value.wake;
    let is_costly = value.is_costly();
    let memory = api.services().screen_waits.memory().clone();
    let conditions = Arc::new(checked(is_costly, move || value.conditions(&memory)).await?);
    let longest = api.settings().max_wait;
    let time = query.wait.map(|Parsed(wait)| wait.min(longest));
    let view = api.services().machines.resolve(&caller.scope, &reference)?;
    let call = ScreenCall { api: &api, requester: &requester, machine: &view.machine, wake };
    let found = call.run(conditions, time).await;
    let answered = found.map(|found| {
        respond::object(&api, &version, &ScreenWaitResult::from_match(&found, &view.machine))
    });
    let mut response = answered.unwrap_or_else(|failure| ApiError(failure).into_response());
    if let Some(time) = time {
        WaitMode::Outcome(time).set_headers(&mut response);
    }
    Ok(response)
}

/// A call that waits for a screen.
pub struct ScreenCall<'a> {
    pub api: &'a ApiState,
    pub requester: &'a Requester,
    pub machine: &'a Arc<Machine>,
    /// Whether a blank screen is woken.
    pub wake: bool,
}

impl ScreenCall<'_> {
    /// Checks the rights, and waits until one of the conditions holds.
    ///
    /// # Parameters
    /// - `time`: the longest wait. `None` to test each condition once.
    ///
    /// # Errors
    /// As for the operation.
    pub async fn run(
        &self,
        conditions: Arc<ScreenConditions>,
        time: Option<Duration>,
    ) -> Result<ScreenMatch, Failure> {
        let (services, machine) = (self.api.services(), self.machine);
        let may_look = |machine: &Machine| self.check_may_look(machine);
        let may_wake = |machine: &Machine| {
            let right = services.screens.may_drive(self.requester, machine)?;
            services.audit.record(self.wake_record(machine, right.lease()));
            Ok(())
        };
        let has_job = |machine: &Machine| {
            let view = services.machines.get(&machine.id);
            view.is_some_and(|view| view.active_job.is_some())
        };
        may_look(machine)?;
        if self.wake {
            services.screens.may_drive(self.requester, machine)?;
        }
        let wake: &RightCheck<'_> = &may_wake;
        let clock = self.api.clock();
        let limit = time.unwrap_or(ONCE_LIMIT);
        let terms = WaitTerms {
            conditions: Arc::clone(&conditions),
            once: time.is_none(),
            tests_until: Some(clock.elapsed() + limit),
            may_look: &may_look,
            wake: self.wake.then_some(wake),
            has_job: &has_job,
        };
        let (identity, sight) = (machine.identity(), Sight::default());
        let permit = WaitPermit::acquire(self.api)?;
        let work = async {
            let time_up = async {
                clock.sleep(limit).await;
                sight.tested().await;
            };
            tokio::select! {
                biased;
                found = services.screen_waits.wait(&identity, &terms, &sight) => Some(found),
                () = time_up => None,
            }
        };
        match permit.wait(self.api, limit.max(FIRST_TEST_LIMIT), work).await {
            WaitEnd::Done(Some(Err(failure))) if failure.kind == FailureKind::WaitTimeout => {
                Err(self.timed_out(&conditions, time, &sight).await)
            }
            WaitEnd::Done(Some(done)) => done.map_err(|failure| self.with_machine(failure)),
            WaitEnd::Done(None) | WaitEnd::TimeUp => {
                Err(self.timed_out(&conditions, time, &sight).await)
            }
            WaitEnd::ShuttingDown => {
                let detail = "otter is shutting down; wait again when it is back.";
                Err(self.with_machine(Failure::new(FailureKind::ShuttingDown, detail)))
            }
        }
    }

    fn check_may_look(&self, machine: &Machine) -> Result<(), Failure> {
        let services = self.api.services();
        if services.machines.get_in(&self.requester.caller.scope, &machine.id).is_none() {
            let detail = "The machine was removed from the host while its screen was waited for.";
            return Err(Failure::new(FailureKind::MachineGone, detail));
        }
        services.screens.may_look(self.requester, machine)
    }

    /// The audit record of a key that wakes a blank screen.
    fn wake_record(&self, machine: &Machine, lease: Option<LeaseId>) -> AuditRecord {
        let now = self.api.clock().now();
        let record = AuditRecord::new(now, AuditAction::ScreenInput, AuditOutcome::Done)
            .with_actor(&self.requester.caller.actor())
            .with_detail("Shift, which wakes the blank screen".to_owned());
        let machine = Some((machine.id.clone(), machine.name.clone()));
        AuditRecord { machine, lease, ..record }
    }

    fn with_machine(&self, failure: Failure) -> Failure {
        match failure.machine {
            Some(_) => failure,
            None => failure.with_machine(&self.machine.id, &self.machine.name),
        }
    }

    /// The failure of a wait whose conditions did not come true.
    async fn timed_out(
        &self,
        conditions: &ScreenConditions,
        time: Option<Duration>,
        sight: &Sight,
    ) -> Failure {
        let Seen { frame, .. } = sight.seen();
        let outside = frame.as_ref().and_then(|frame| {
            let (pointer, region) = conditions.region_outside(frame.size)?;
            let size = frame.size;
            let detail =
                format!("The region {region} does not fit on the screen, which has {size} pixels.");
            Some(failure_in_body(&pointer, "out-of-range", detail))
        });
        if let Some(outside) = outside.as_ref().filter(|_| time.is_none()) {
            return self.with_machine(outside.clone());
        }
        let shown: Vec<String> =
            conditions.any.iter().enumerate().map(|(index, one)| shown(index, one)).collect();
        let named = in_words(&shown);
        let what = match (shown.len(), conditions.still) {
            (0, _) => "was not still".to_owned(),
            (1, None) => format!("did not meet the condition {named}"),
            (count, None) => format!("did not meet any of the {count} conditions ({named})"),
            (1, Some(_)) => format!("was not still with the condition {named} met"),
            (count, Some(_)) => {
                format!("was not still with one of {count} conditions met ({named})")
            }
        };
        let when = match time {
            Some(time) => format!("within {}; wait again", duration::format(time)),
            None => "when it was tested once; add ?wait=5m to wait for it".to_owned(),
        };
        let name = &self.machine.name;
        let end = outside.map(|outside| format!(" {}", outside.detail)).unwrap_or_default();
        let detail = format!("The screen of {name} {what} {when}.{end}");
        let waits = &self.api.services().screen_waits;
        waits.timed_out(self.machine, &self.requester.caller, sight, &detail).await
    }
}

/// A condition in words: its name, or what it looks for.
fn shown(index: usize, condition: &ScreenCondition) -> String {
    let subject = match (&condition.name, &condition.subject) {
        (Some(name), _) => shorten(name),
        (None, Subject::Text(needle)) => shorten(needle.text()),
        (None, Subject::Regex { regex, .. }) => format!("regex {}", shorten(regex.as_str())),
        (None, Subject::Image { .. }) => format!("image {index}"),
    };
    if condition.absent { format!("absent {subject}") } else { subject }
}

impl ScreenWaitResult {
    fn from_match(found: &ScreenMatch, machine: &Machine) -> Self {
        let path = links::machine(&machine.id);
        let screen = format!("{path}/screen.png");
        Self {
            matched: found.matched.as_ref().map(ScreenMatched::from_matched),
            changed_at: found.frame.changed_at,
            links: BTreeMap::from([("machine".to_owned(), path), ("screen".to_owned(), screen)]),
        }
    }
}

impl ScreenMatched {
    fn from_matched(matched: &Matched) -> Self {
        let Matched { index, name, found } = matched;
        let region = found.region;
        Self {
            // A wait has at most 16 conditions.
            index: u32::try_from(*index).unwrap_or(u32::MAX),
            name: name.clone(),
            text: found.text.clone(),
            x: region.map(|region| region.x),
            y: region.map(|region| region.y),
            width: region.map(|region| region.width),
            height: region.map(|region| region.height),
            similarity: found.similarity,
        }
    }
}
