//! The truth about a host, as somebody sees it who comes new: a backend of its own that reads
//! everything once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use otter::clock::Clock;
use otter::domain::verify::Verify;
use otter::esx::{EsxHypervisor, EsxOptions};
use otter::hypervisor::{Hypervisor, SessionState};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::suite::Truth;
use super::suite::watching::Watching;

/// How a host of these tests is reached.
pub fn options(url: &str) -> EsxOptions {
    let mut options = EsxOptions::new(url, "root", SecretString::from("otter"));
    options.verify = Verify::Off;
    options.connect_timeout = Duration::from_secs(5);
    options.read_timeout = Duration::from_secs(10);
    options
}

/// All that there is on the host now.
pub async fn truth(url: &str) -> Result<Truth> {
    let backend = EsxHypervisor::new(&options(url), Clock::system())?;
    let (watching, stop) = (Arc::new(Watching::default()), CancellationToken::new());
    let connected = watching.until(|picture| {
        (picture.status()?.state == SessionState::Connected).then(|| picture.all.clone())
    });
    let seen = async {
        let truth = tokio::time::timeout(Duration::from_secs(15), connected).await;
        stop.cancel();
        truth.context("a newcomer does not come in")
    };
    let (ran, truth) = tokio::join!(backend.run(Arc::clone(&watching) as _, stop.clone()), seen);
    ran?;
    truth
}
