//! The HTTP API: the table of routes, one folder for each kind of object with its handlers and wire
//! types, and what happens to every request around its handler.

mod about;
mod access_log;
mod artifacts;
mod attachment;
mod audit;
mod base_path;
mod client_address;
mod compression;
mod condition_fields;
mod conditional;
pub mod connections;
mod content_coding;
mod cors;
mod datastores;
pub mod document;
mod entity_tag;
mod events;
mod extract;
mod files;
mod hyper_errors;
mod jobs;
mod layers;
mod lease_authorization;
mod leases;
mod links;
pub mod listener;
mod long_poll;
mod machines;
mod media_type;
mod metrics;
mod openapi_parts;
mod operations;
mod pages;
pub mod paging;
pub mod problem;
mod read_limits;
mod request_checks;
mod respond;
mod roles;
mod screens;
mod secret_body;
mod serial;
pub mod serve;
mod start_job;
pub mod tls;
mod web_docs;
mod web_file;
mod web_page;
mod websocket;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;

use self::base_path::BasePathSettings;
use self::cors::Cors;
pub use self::extract::NoParameters;
use self::layers::Layers;
use self::links::LinkedBody;
use self::machines::rendered::RenderedMachines;
use self::operations::Operations;
use self::problem::ApiError;
use self::request_checks::RequestChecks;
use self::roles::{Guard, Routes};
use self::serve::HttpService;
use crate::clock::Clock;
use crate::domain::base_path::BasePath;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::trusted_proxy::TrustedProxy;
use crate::domain::web_origin::{Scheme, WebOrigin};
use crate::service::Services;
use crate::telemetry::metrics::Metrics;

/// The state that all handlers share. A clone refers to the same state.
#[derive(Clone)]
pub struct ApiState(Arc<ApiStateInner>);

struct ApiStateInner {
    services: Services,
    clock: Clock,
    stop: CancellationToken,
    settings: HttpSettings,
    waits: Arc<Semaphore>,
    direct_reads: DirectReads,
    rendered_machines: RenderedMachines,
    metrics: Metrics,
}

/// The HTTP part of the configuration, and the facts about other parts that `/v1/about` shows.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// The longest time that a call may wait.
    pub max_wait: Duration,
    /// The largest number of calls that wait at the same time.
    pub max_waits: usize,
    /// The largest body, in bytes.
    pub body_limit: usize,
    /// The time in which the whole body must arrive.
    pub body_timeout: Duration,
    /// The time in which the headers of a request must arrive, from their first byte.
    pub header_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    /// The largest number of open connections. At this number otter closes idle connections to
    /// accept new ones.
    pub max_connections: usize,
    /// The URL scheme under which clients reach otter.
    pub scheme: Scheme,
    /// The origins of other servers whose web pages may call otter.
    pub allowed_origins: Vec<WebOrigin>,
    /// The proxies whose `X-Forwarded-For` and `X-Forwarded-Prefix` otter trusts.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// The path under which clients reach otter.
    pub base_path: BasePath,
    /// Whether otter writes an access log line for each request.
    pub access_log: bool,
    /// The time between two bookmarks in a stream of events.
    pub bookmark_interval: Duration,
    /// Whether otter verifies the host's certificate, for `/v1/about`.
    pub tls_verified: bool,
    /// Whether tokens cross the network without TLS, for `/v1/about`.
    pub is_unencrypted: bool,
}

/// The head of the OpenAPI document. The operations are added to it when their routes are
/// registered.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "otter",
        description = "A REST daemon in front of a VMware ESX host: the live inventory of its \
                       machines, power and snapshot operations as durable jobs, and leases of \
                       machines.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    servers((url = "/", description = "This otter")),
    tags(
        (name = "machines", description = "Virtual machines, read from memory"),
        (name = "snapshots", description = "Snapshots of machines"),
        (name = "datastores", description = "Datastores that hold the files of machines"),
        (name = "files", description = "Files on datastores: ISOs that machines boot from, and \
            what machines write. otter writes only below the folders of `files.roots`, and never \
            inside of the folder of a machine"),
        (name = "jobs", description = "Operations on machines, each from acceptance to its end"),
        (name = "leases", description = "Exclusive use of a machine for a limited time"),
        (name = "artifacts", description = "Files that belong to leases, such as recordings"),
        (name = "screens", description = "What machines show, and their keyboard and mouse. \
            Operators look, and the holder of the machine's lease: with `Otter-Lease`, or with \
            the token that created it. Others look at a machine without a lease in a pool with \
            `screens = \"public\"`; if otter has no tokens, everybody looks. Only operators look \
            at a protected machine. Typing needs the right to change the machine"),
        (name = "serial", description = "Serial ports of machines: their output and input. Who may \
            look at the screen of a machine may read them, and who may type may write to them"),
        (name = "events", description = "A stream of all changes"),
        (name = "audit", description = "The record of who did what, for admins"),
        (name = "about", description = "This otter and its host"),
    ),
    // The schema is listed here because no response body refers to it: a stream of events is text.
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
            rendered_machines: RenderedMachines::default(),
            metrics,
        }))
    }

    /// The HTTP service: all routes, and everything around them.
    ///
    /// # Errors
    /// Fails if two routes match the same paths.
    pub fn service(self) -> Result<impl HttpService, matchit::InsertError> {
        let (router, access, _) = routes().into_parts();
        let router = router
            .fallback(unknown_path)
            .method_not_allowed_fallback(method_not_allowed)
            .with_state(self.clone());
        let trusted_proxies: Arc<[TrustedProxy]> =
            Arc::from(self.settings().trusted_proxies.as_slice());
        let layers = Layers {
            router,
            operations: Operations::new(&access, self.metrics())?,
            clock: self.clock().clone(),
            guard: Guard::new(Arc::clone(&self.services().callers))
                .with_screens(Arc::clone(&self.services().screens)),
            audit: Arc::clone(&self.services().audit),
            trusted_proxies: Arc::clone(&trusted_proxies),
            checks: RequestChecks {
                scheme: self.settings().scheme,
                cors: Cors::new(&self.settings().allowed_origins),
            },
            access_log: self.settings().access_log,
        };
        let base_path =
            BasePathSettings { configured: self.settings().base_path.clone(), trusted_proxies };
        let entrance = Arc::new(Entrance { api: self, base_path, layers });
        Ok(tower::service_fn(move |request| {
            let entrance = Arc::clone(&entrance);
            async move { Ok(entrance.answer(request).await) }
        }))
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

    pub(crate) fn rendered_machines(&self) -> &RenderedMachines {
        &self.0.rendered_machines
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}

/// The OpenAPI 3.1 document that otter serves.
#[must_use]
pub fn openapi() -> serde_json::Value {
    let (_, _, document) = routes().into_parts();
    // Serialising the document cannot fail, because it is plain data.
    serde_json::to_value(document).unwrap_or_default()
}

fn routes() -> Routes {
    Routes::with_document(ApiDoc::openapi())
        .merge(machines::routes())
        .merge(datastores::routes())
        .merge(files::routes())
        .merge(jobs::routes())
        .merge(events::routes())
        .merge(leases::routes())
        .merge(artifacts::routes())
        .merge(screens::routes())
        .merge(serial::routes())
        .merge(audit::routes())
        .merge(about::routes())
        .merge(pages::routes())
        .merge(web_page::routes())
        .merge(web_docs::routes())
        .merge(metrics::routes())
}

/// The first code that sees a request. It finds the base path of the request, and passes the
/// request to the layers.
struct Entrance {
    api: ApiState,
    base_path: BasePathSettings,
    layers: Layers,
}

impl Entrance {
    /// Answers a request. All links of the response begin with the path under which its client
    /// reaches otter.
    async fn answer(&self, mut request: Request) -> Response {
        match self.base_path.of_request(&request) {
            Ok(base) if base.is_root() => self.answer_own(Ok(()), request).await,
            Ok(base) => {
                base_path::remove(&base, &mut request);
                let answered = Box::pin(self.answer_own(Ok(()), request));
                let response = links::under(base.clone(), answered).await;
                response.map(|body| Body::new(LinkedBody::new(body, base)))
            }
            Err(failure) => Box::pin(self.answer_own(Err(Box::new(failure)), request)).await,
        }
    }

    /// Answers a request whose URI no longer has the base path, the path under which its client
    /// reaches otter.
    async fn answer_own(
        &self,
        prefix_check: Result<(), Box<Failure>>,
        request: Request,
    ) -> Response {
        // The lease is read outside of the authentication, so that the response to a request that
        // authentication rejects also shows when the lease expires.
        let lease = lease_authorization::valid_lease(&self.api, request.headers());
        let mut response = self.layers.answer(prefix_check, request).await;
        lease_authorization::add_expiry(&self.api, lease, &mut response);
        response
    }
}

async fn unknown_path() -> ApiError {
    let detail = "This path does not exist. See /docs; a path with a trailing slash is a different \
                  path.";
    Failure::new(FailureKind::NotFound, detail).into()
}

async fn method_not_allowed() -> ApiError {
    Failure::new(
        FailureKind::MethodNotAllowed,
        "This path does not support this method; the header Allow lists the methods.",
    )
    .into()
}

/// Limits reads that go to the host instead of to memory: 4 run at the same time, 32 more wait, and
/// further ones are refused.
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
    /// Waits for a permit to read. Dropping the result returns the permit.
    ///
    /// # Errors
    /// `too-many-waits` if 32 reads wait already.
    pub(crate) async fn enter(&self) -> Result<impl Sized + '_, Failure> {
        let refused = || {
            let detail = "Too many reads of the host are waiting; try again in a moment.";
            Failure::new(FailureKind::TooManyWaits, detail)
        };
        let admitted = self.admitted.try_acquire().map_err(|_| refused())?;
        let running = self.running.acquire().await.map_err(|_| refused())?;
        Ok((admitted, running))
    }
}
