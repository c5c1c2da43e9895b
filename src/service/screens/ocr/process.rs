//! Runs tesseract, or the program of `screens.ocr_command`, once: a PNG on its standard input, TSV
//! on its standard output. The program is killed if it takes too long, or if no caller waits for
//! it.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::OcrError;
use crate::clock::Clock;

/// The program is killed after this time.
pub const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The longest output that is read, in bytes. A screen full of words has a hundredth of it.
const MAX_OUTPUT: u64 = 4 * 1024 * 1024;

/// The longest text of an error that is read, in bytes.
const MAX_ERROR: u64 = 4 * 1024;

/// A picture that is at most this high, in pixels of the screen, has a few lines of one block of
/// text. A higher one has texts anywhere.
const ONE_BLOCK: u16 = 40;

/// The variables of otter's environment that the program gets. The others may hold secrets.
const ENVIRONMENT: [&str; 4] = ["PATH", "TESSDATA_PREFIX", "HOME", "LD_LIBRARY_PATH"];

/// Runs the program on a PNG. Returns its output.
///
/// # Parameters
/// - `command`: the program and its first arguments.
/// - `height`: the height of the picture in pixels of the screen.
///
/// # Errors
/// [`OcrError::Missing`] if there is no such program, [`OcrError::TooSlow`], and
/// [`OcrError::Failed`] with the reason that the program gave.
pub async fn run(
    clock: &Clock,
    command: &[String],
    png: &[u8],
    height: u16,
) -> Result<String, OcrError> {
    let (program, first) = command.split_first().ok_or(OcrError::Missing)?;
    let layout = if height <= ONE_BLOCK { "6" } else { "11" };
    let mut command = Command::new(program);
    command
        .args(first)
        .args(["stdin", "stdout", "--psm", layout, "-l", "eng", "tsv"])
        .env_clear()
        .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("LC_ALL", "C")
        // Without it, tesseract spins on every processor and needs ten times as long.
        .env("OMP_THREAD_LIMIT", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => OcrError::Missing,
        _ => OcrError::Failed(format!("{program} could not be started: {error}")),
    })?;
    tokio::select! {
        biased;
        output = talk(child, png) => output,
        () = clock.sleep(TIME_LIMIT) => Err(OcrError::TooSlow),
    }
}

/// Writes the picture, and reads the output until the program has ended.
async fn talk(mut child: Child, png: &[u8]) -> Result<String, OcrError> {
    let failed = |error: io::Error| OcrError::Failed(error.to_string());
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program that ends early closes its input. Its status says why.
            let _ = stdin.write_all(png).await;
            let _ = stdin.shutdown().await;
        }
    };
    let ((), output, error) =
        tokio::join!(write, read(stdout, MAX_OUTPUT), read(stderr, MAX_ERROR));
    let (output, error) = (output.map_err(failed)?, error.map_err(failed)?);
    let status = child.wait().await.map_err(failed)?;
    if status.success() {
        return Ok(output);
    }
    let reason = error.lines().next().unwrap_or_default().trim();
    Err(OcrError::Failed(format!("{status}: {reason}")))
}

/// Reads a stream to its end, and keeps its beginning.
async fn read(stream: Option<impl AsyncRead + Unpin>, most: u64) -> io::Result<String> {
    let Some(stream) = stream else { return Ok(String::new()) };
    let mut bytes = Vec::new();
    let mut limited = stream.take(most);
    limited.read_to_end(&mut bytes).await?;
    let mut rest = limited.into_inner();
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
