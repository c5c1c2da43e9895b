//! A bare server: otter's runtime and accept loop, and answers that are ready in memory. It is the
//! ceiling of what otter's stack can serve.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use otter::api::HttpSettings;
use otter::api::listener::Listener;
use otter::api::serve;
use otter::app::{self, SimulatedHost};
use otter::clock::Clock;
use otter::config::{Config, Flags};
use otter::supervisor::{Signals, Supervisor};
use serde::Deserialize;
use serde_json::{Value, json};

/// An answer, as the file has it.
#[derive(Deserialize)]
struct StoredAnswer {
    path: String,
    status: u16,
    headers: Vec<(String, String)>,
    /// The file with the body.
    body: PathBuf,
}

/// An answer that is ready to be sent.
#[derive(Clone)]
struct ReadyAnswer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// Serves the answers until the process is terminated.
pub async fn serve(listen: SocketAddr, answers: &Path) -> anyhow::Result<Value> {
    let text = tokio::fs::read(answers)
        .await
        .with_context(|| format!("{} cannot be read", answers.display()))?;
    let stored: Vec<StoredAnswer> = serde_json::from_slice(&text)?;
    let mut router = Router::new();
    for answer in stored {
        let path = answer.path.clone();
        let ready = ReadyAnswer::read(answer).await?;
        router = router.route(&path, get(move || std::future::ready(ready.response())));
    }
    let clock = Clock::system();
    let signals = Signals::install()?;
    let supervisor = Supervisor::new(clock.clone(), Duration::from_secs(5));
    let listener =
        Listener::tcp(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let (settings, own) = (settings()?, supervisor.clone());
    supervisor
        .spawn("http", |stop| serve::serve(vec![listener], router, settings, clock, own, stop));
    supervisor.run(signals).await;
    Ok(json!({}))
}

impl ReadyAnswer {
    async fn read(stored: StoredAnswer) -> anyhow::Result<Self> {
        let StoredAnswer { path: _, status, headers, body } = stored;
        let headers = headers.into_iter().map(|(name, value)| {
            anyhow::Ok((name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?))
        });
        Ok(Self {
            status: StatusCode::from_u16(status)?,
            headers: headers.collect::<Result<_, _>>()?,
            body: tokio::fs::read(body).await?.into(),
        })
    }

    fn response(&self) -> Response {
        let mut response = Response::new(Body::from(self.body.clone()));
        *response.status_mut() = self.status;
        response.headers_mut().clone_from(&self.headers);
        response
    }
}

/// The default settings of otter's HTTP.
fn settings() -> anyhow::Result<HttpSettings> {
    let config = Config::load(None, &BTreeMap::new(), &Flags::default())?;
    let host = SimulatedHost {
        url: "https://127.0.0.1:1".to_owned(),
        fingerprint: vec!["00"; 32].join(":"),
    };
    Ok(app::settings(config, Some(host))?.http)
}
