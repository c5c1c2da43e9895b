//! `otter files get`: a download, which can go on where an earlier one broke off.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

use super::bar::{Bar, size};
use super::remote_path::RemotePath;
use super::{GetCommand, TRANSFER_PATIENCE, no_answer};
use crate::cli::run::{Exit, Failure, NoAnswer, OtterClient, Pieces, Progress};

/// The status of an answer to a range that begins behind the end of the file.
const RANGE_NOT_SATISFIABLE: u16 = 416;

/// Downloads a file.
///
/// # Errors
/// otter refuses it, the connection breaks, or the file of this computer cannot be written.
pub async fn get(
    client: &OtterClient,
    command: &GetCommand,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let GetCommand { from, to, continues, .. } = command;
    if from.name().is_empty() {
        return Err(Failure::new(Exit::Usage, format!("{from} names no file")));
    }
    if to.as_deref() == Some(Path::new("-")) {
        return print_file(client, from, progress).await;
    }
    let target = match to {
        Some(directory) if directory.is_dir() => directory.join(from.name()),
        Some(file) => file.clone(),
        None => PathBuf::from(from.name()),
    };
    let mut part = target.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let kept = if *continues { length(&part).await? } else { 0 };
    let (mut pieces, first) = open(client, from, kept).await?;
    let mut file = open_part(&part, first).await.map_err(|error| at(&part, &error))?;
    let total = number(&pieces, CONTENT_LENGTH.as_str()).map(|rest| first + rest);
    let mut bar = Bar::new(progress, from.name(), first, total);
    let mut done = first;
    loop {
        let piece = match pieces.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(NoAnswer { reason, .. }) => {
                // What has come is kept for `--continue`, also if the last bytes of it are lost.
                let _ = file.flush().await;
                let shown = part.display();
                let reason = format!(
                    "the download broke off: {reason}. --continue goes on with {shown} ({})",
                    size(done)
                );
                return Err(Failure::new(Exit::Unavailable, reason));
            }
        };
        file.write_all(&piece).await.map_err(|error| at(&part, &error))?;
        done += piece.len() as u64;
        bar.show(done);
    }
    file.flush().await.map_err(|error| at(&part, &error))?;
    tokio::fs::rename(&part, &target).await.map_err(|error| at(&target, &error))?;
    progress.info(&format!("{from} is in {} ({})", target.display(), size(done)));
    Ok(())
}

/// Writes a file to the standard output.
async fn print_file(
    client: &OtterClient,
    from: &RemotePath,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let (mut pieces, _) = open(client, from, 0).await?;
    let total = number(&pieces, CONTENT_LENGTH.as_str());
    let mut bar = Bar::new(progress, from.name(), 0, total);
    let mut done = 0;
    while let Some(piece) = pieces.next().await.map_err(no_answer)? {
        let mut out = io::stdout().lock();
        out.write_all(&piece)
            .and_then(|()| out.flush())
            .map_err(|error| Failure::new(Exit::Internal, format!("standard output: {error}")))?;
        done += piece.len() as u64;
        bar.show(done);
    }
    Ok(())
}

/// Asks for a file from its byte `kept` on.
///
/// # Returns
/// The bytes, and the offset of the first one. It is 0 if otter does not send the part.
async fn open(
    client: &OtterClient,
    from: &RemotePath,
    kept: u64,
) -> Result<(Pieces, u64), Failure> {
    let mut request = client.request(Method::GET, &from.query("file"));
    if kept > 0 {
        request = request.header(RANGE, format!("bytes={kept}-"));
    }
    match OtterClient::open_within(request, TRANSFER_PATIENCE).await.map_err(no_answer)? {
        Ok(pieces) => {
            let range = pieces.header(CONTENT_RANGE.as_str());
            let is_rest = range.is_some_and(|range| range.starts_with(&format!("bytes {kept}-")));
            Ok((pieces, if is_rest { kept } else { 0 }))
        }
        // The file of this computer has as many bytes as that of the datastore, or more.
        Err(refused) if kept > 0 && refused.status.as_u16() == RANGE_NOT_SATISFIABLE => {
            Box::pin(open(client, from, 0)).await
        }
        Err(refused) => Err(refused.failure()),
    }
}

/// Opens the file for the bytes from `first` on.
async fn open_part(path: &Path, first: u64) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path).await?;
    file.set_len(first).await?;
    Ok(file)
}

/// The number of bytes in a file. 0 if there is none.
async fn length(path: &Path) -> Result<u64, Failure> {
    match tokio::fs::metadata(path).await {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(at(path, &error)),
    }
}

fn number(pieces: &Pieces, header: &str) -> Option<u64> {
    pieces.header(header)?.parse().ok()
}

fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Internal, format!("{}: {error}", path.display()))
}
