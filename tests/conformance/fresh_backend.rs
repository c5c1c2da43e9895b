//! The contents of a host, read once by a second, fresh backend.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use otter::clock::Clock;
use otter::domain::verify::Verify;
use otter::esx::{EsxHypervisor, EsxOptions};
use otter::hypervisor::{Hypervisor, SessionState};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::suite::HostContents;
use super::suite::recording_observer::RecordingObserver;

/// The options of a backend for a host of these tests.
pub fn options(url: &str) -> EsxOptions {
    let mut options = EsxOptions::new(url, "root", SecretString::from("otter"));
    options.verify = Verify::Off;
    options.connect_timeout = Duration::from_secs(5);
    options.read_timeout = Duration::from_secs(10);
    options
}

/// The contents of the host now.
pub async fn contents(url: &str) -> Result<HostContents> {
    let backend = EsxHypervisor::new(&options(url), Clock::system())?;
    let (observer, stop) = (Arc::new(RecordingObserver::default()), CancellationToken::new());
    let connected = observer.wait_until(|recording| {
        (recording.status()?.state == SessionState::Connected).then(|| recording.contents.clone())
    });
    let read = async {
        let contents = tokio::time::timeout(Duration::from_secs(15), connected).await;
        stop.cancel();
        contents.context("the fresh backend did not connect")
    };
    let (ran, contents) = tokio::join!(backend.run(Arc::clone(&observer) as _, stop.clone()), read);
    ran?;
    contents
}
