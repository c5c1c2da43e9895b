//! HTTP: one table of routes, wire types beside their handlers, and the layers that every answer
//! passes.

mod about;
mod access_log;
mod audit;
mod client_address;
pub mod connections;
mod cors;
mod datastores;
pub mod document;
mod events;
mod extract;
mod hyper_errors;
mod jobs;
mod layers;
mod lease_authorization;
mod leases;
mod links;
mod long_poll;
mod machines;
mod media_type;
mod metrics;
mod openapi_parts;
mod pages;
pub mod paging;
pub mod problem;
mod request_checks;
mod respond;
mod roles;
pub mod serve;
mod start_job;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;

use self::cors::Cors;
pub use self::extract::NoParameters;
use self::problem::ApiError;
use self::request_checks::RequestChecks;
use self::roles::{Guard, Routes};
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::network::Network;
use crate::domain::web_origin::{Scheme, WebOrigin};
use crate::service::Services;
use crate::telemetry::metrics::Metrics;

/// What handlers work with. Clones share it.
#[derive(Clone)]
pub struct ApiState(Arc<ApiStateInner>);

struct ApiStateInner {
    services: Services,
    clock: Clock,
    stop: CancellationToken,
    settings: HttpSettings,
    waits: Arc<Semaphore>,
    direct_reads: DirectReads,
    metrics: Metrics,
}

/// What the configuration says of HTTP, and what callers are told of the rest.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// The longest that a call may block.
    pub max_wait: Duration,
    /// How many calls may block at once.
    pub max_waits: usize,
    /// The largest body, in bytes.
    pub body_limit: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long a request's headers may take to arrive.
    pub header_timeout: Duration,
    /// How many connections are open at once. At this number idle ones are closed for new ones.
    pub max_connections: usize,
    /// How otter itself is reached.
    pub scheme: Scheme,
    /// Origins of other servers whose pages may call otter.
    pub allowed_origins: Vec<WebOrigin>,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Whether each request is written to the log.
    pub access_log: bool,
    /// How long a stream of events may go without a word on where it is.
    pub bookmark_interval: Duration,
    /// Whether the host's certificate is checked, for `/v1/about`.
    pub tls_verified: bool,
    /// Whether tokens come in the clear over the network, for `/v1/about`.
    pub is_unencrypted: bool,
}

/// The document's frame; the operations come with their routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "otter",
        description = "A long-running REST daemon in front of a VMware ESX host: a live inventory of its machines, and power and snapshot operations as durable jobs.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    servers((url = "/", description = "This otter")),
    tags(
        (name = "machines", description = "Virtual machines, from memory"),
        (name = "snapshots", description = "Their snapshots"),
        (name = "datastores", description = "Where their files are"),
        (name = "jobs", description = "Operations, from acceptance to their one end"),
        (name = "leases", description = "A machine for one holder, for a time"),
        (name = "events", description = "Every change, as it happens"),
        (name = "audit", description = "Who did what, for admins"),
        (name = "about", description = "This otter and its host"),
    ),
    // No body is one of these: a stream of them is text.
    components(schemas(events::Event))
)]
struct ApiDoc;

impl ApiState {
    #[must_use]
    pub fn new(
        services: Services,
        clock: Clock,
        stop: CancellationToken,
        settings: HttpSettings,
        metrics: Metrics,
    ) -> Self {
        let waits = Arc::new(Semaphore::new(settings.max_waits));
        Self(Arc::new(ApiStateInner {
            services,
            clock,
            stop,
            settings,
            waits,
            direct_reads: DirectReads::default(),
            metrics,
        }))
    }

    /// Everything that is served, behind every layer.
    pub fn router(self) -> Router {
        let (router, access, _) = routes().into_parts();
        let router = router
            .fallback(unknown_path)
            .method_not_allowed_fallback(method_not_allowed)
            .with_state(self.clone());
        let guard = Guard::new(Arc::clone(&self.services().callers), access);
        let context = layers::LayerContext {
            clock: self.clock().clone(),
            guard,
            metrics: self.metrics().clone(),
            audit: Arc::clone(&self.services().audit),
            trusted_proxies: Arc::from(self.settings().trusted_proxies.as_slice()),
            checks: RequestChecks {
                scheme: self.settings().scheme,
                cors: Cors::new(&self.settings().allowed_origins),
            },
            access_log: self.settings().access_log,
        };
        // Around all of them: who is refused at the door may hold a lease all the same.
        layers::apply(router, context).layer(axum::middleware::from_fn_with_state(
            self,
            lease_authorization::add_lease_expiry,
        ))
    }

    pub(crate) fn services(&self) -> &Services {
        &self.0.services
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    pub(crate) fn settings(&self) -> &HttpSettings {
        &self.0.settings
    }

    pub(crate) fn waits(&self) -> Arc<Semaphore> {
        Arc::clone(&self.0.waits)
    }

    pub(crate) fn direct_reads(&self) -> &DirectReads {
        &self.0.direct_reads
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}

/// The OpenAPI 3.1 document, as it is served and committed.
#[must_use]
pub fn openapi() -> serde_json::Value {
    let (_, _, document) = routes().into_parts();
    // The document is plain data, which always serialises.
    serde_json::to_value(document).unwrap_or_default()
}

fn routes() -> Routes {
    Routes::with_document(ApiDoc::openapi())
        .merge(machines::routes())
        .merge(datastores::routes())
        .merge(jobs::routes())
        .merge(events::routes())
        .merge(leases::routes())
        .merge(audit::routes())
        .merge(about::routes())
        .merge(pages::routes())
        .merge(metrics::routes())
}

async fn unknown_path() -> ApiError {
    let detail = "There is no such path. See /docs; a trailing slash makes another path.";
    Failure::new(FailureKind::NotFound, detail).into()
}

async fn method_not_allowed() -> ApiError {
    Failure::new(
        FailureKind::MethodNotAllowed,
        "The path exists, but not with this method; see Allow.",
    )
    .into()
}

/// Reads that go past the inventory to the host: a few at a time, a few more wait, the rest are
/// refused.
pub(crate) struct DirectReads {
    running: Semaphore,
    admitted: Semaphore,
}

impl Default for DirectReads {
    fn default() -> Self {
        const AT_ONCE: usize = 4;
        const WAITING: usize = 32;
        Self { running: Semaphore::new(AT_ONCE), admitted: Semaphore::new(AT_ONCE + WAITING) }
    }
}

impl DirectReads {
    /// A place to read in; dropping it gives it back.
    pub(crate) async fn enter(&self) -> Result<impl Sized + '_, Failure> {
        let refused = || {
            let detail = "Too many direct reads of the host wait already; try again in a moment.";
            Failure::new(FailureKind::TooManyWaits, detail)
        };
        let admitted = self.admitted.try_acquire().map_err(|_| refused())?;
        let running = self.running.acquire().await.map_err(|_| refused())?;
        Ok((admitted, running))
    }
}
