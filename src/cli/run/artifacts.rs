//! The artifacts of a lease, which `otter run --artifacts` stores in a directory at the end: what
//! otter recorded, and what the command stored. A failure here never changes the exit code.

use std::io;
use std::path::Path;
use std::time::Duration;

use http::Method;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::Failure;
use super::client::{NoAnswer, OtterClient};
use super::exit::Exit;
use super::lease::{Lease, LeaseClient};
use super::progress::Progress;
use crate::domain::artifact::ArtifactName;

/// The longest time that `otter run` waits until otter has made the artifacts of a recording.
const RENDER_TIMEOUT: Duration = Duration::from_mins(5);

/// The pause between two looks at a recording.
const POLL: Duration = Duration::from_millis(500);

/// How often a file is tried.
const TRIES: u32 = 3;

/// The largest number of artifacts that are stored.
const MAX_ARTIFACTS: usize = 10_000;

/// A page of the list of artifacts.
#[derive(Deserialize)]
struct RemoteArtifacts {
    items: Vec<RemoteArtifact>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct RemoteArtifact {
    id: String,
    name: String,
    bytes: u64,
    sha256: String,
}

/// Stores the artifacts of a lease in a directory. If the lease has ended, waits until otter has
/// made those of its recording.
///
/// # Returns
/// The number of artifacts that were stored.
///
/// # Errors
/// Why not all artifacts are in the directory.
pub async fn store_all(
    client: &LeaseClient,
    lease: &Lease,
    directory: &Path,
    progress: &mut Progress,
) -> Result<usize, Failure> {
    wait_for_recording(client, lease, progress).await?;
    let artifacts = list(client, lease).await?;
    if artifacts.is_empty() {
        return Ok(0);
    }
    let in_directory = |error: &io::Error| {
        Failure::new(Exit::Internal, format!("{}: {error}", directory.display()))
    };
    tokio::fs::create_dir_all(directory).await.map_err(|error| in_directory(&error))?;
    for artifact in &artifacts {
        progress.show(&format!("artifact {}", artifact.name), None);
        store(client, artifact, directory).await?;
    }
    Ok(artifacts.len())
}

/// The address at which people find the artifacts of a lease.
pub fn address(client: &LeaseClient, lease: &Lease) -> String {
    format!("{}/v1/artifacts?lease={}", client.http.url().trim_end_matches('/'), lease.id)
}

async fn wait_for_recording(
    client: &LeaseClient,
    lease: &Lease,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let end = client.clock.elapsed() + RENDER_TIMEOUT;
    loop {
        let is_made = match client.get(lease).await? {
            // The lease was kept, and its recording goes on.
            Some(remote) => remote.is_active() || !remote.has_recording(),
            None => true,
        };
        if is_made {
            return Ok(());
        }
        if client.clock.elapsed() >= end {
            let reason = "otter has not finished the recording in time; its artifacts come later";
            return Err(Failure::new(Exit::Temporary, reason));
        }
        progress.show("otter makes the recording", None);
        client.clock.sleep(POLL).await;
    }
}

async fn list(client: &LeaseClient, lease: &Lease) -> Result<Vec<RemoteArtifact>, Failure> {
    let mut artifacts = Vec::new();
    let mut path = format!("/artifacts?lease={}&limit=1000", lease.id);
    loop {
        let request = || client.http.request(Method::GET, &path);
        let page: RemoteArtifacts = client.send_expecting_success(request).await?.read()?;
        artifacts.extend(page.items);
        match page.next {
            Some(next) if artifacts.len() < MAX_ARTIFACTS => {
                path = format!("/artifacts?lease={}&limit=1000&cursor={next}", lease.id);
            }
            _ => return Ok(artifacts),
        }
    }
}

/// Stores one artifact. Tries again if the connection breaks.
async fn store(
    client: &LeaseClient,
    artifact: &RemoteArtifact,
    directory: &Path,
) -> Result<(), Failure> {
    let RemoteArtifact { id, name, .. } = artifact;
    // The name decides where the file is written, so it is not trusted.
    let name = ArtifactName::parse(name).map_err(|error| {
        Failure::new(Exit::Unavailable, format!("the name of the artifact {id} {error}"))
    })?;
    let target = directory.join(name.as_str());
    // No artifact has such a name, as it begins with a dot.
    let part = directory.join(format!(".{name}.part"));
    let mut tries = 0;
    loop {
        tries += 1;
        match receive(client, artifact, &part).await {
            Ok(()) => break,
            Err(failure) if tries >= TRIES => {
                // The failure of the download is the reason.
                let _ = tokio::fs::remove_file(&part).await;
                let reason = format!("the artifact {name}: {}", failure.message);
                return Err(Failure::new(failure.exit, reason));
            }
            Err(_) => client.clock.sleep(POLL).await,
        }
    }
    tokio::fs::rename(&part, &target).await.map_err(|error| at(&target, &error))
}

/// Receives the bytes of an artifact, and compares them with what otter says of them.
async fn receive(
    client: &LeaseClient,
    artifact: &RemoteArtifact,
    path: &Path,
) -> Result<(), Failure> {
    let failed = |NoAnswer { reason, .. }| Failure::new(Exit::Unavailable, reason);
    let request = client.http.request(Method::GET, &format!("/artifacts/{}/content", artifact.id));
    let mut pieces = match OtterClient::open(request).await.map_err(failed)? {
        Ok(pieces) => pieces,
        Err(refused) => return Err(refused.failure()),
    };
    let mut file = File::create(path).await.map_err(|error| at(path, &error))?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    while let Some(piece) = pieces.next().await.map_err(failed)? {
        hash.update(&piece);
        bytes += piece.len() as u64;
        file.write_all(&piece).await.map_err(|error| at(path, &error))?;
    }
    file.flush().await.map_err(|error| at(path, &error))?;
    if bytes == artifact.bytes && hex::encode(hash.finalize()) == artifact.sha256 {
        return Ok(());
    }
    Err(Failure::new(Exit::Unavailable, "the bytes that came are not those of the artifact"))
}

fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Internal, format!("{}: {error}", path.display()))
}
