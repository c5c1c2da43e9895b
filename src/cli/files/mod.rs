//! `otter files`: lists, downloads, uploads and deletes files on the datastores of the host. Its
//! exit codes are those of `otter run`.

mod bar;
mod get;
mod put;
mod remote_path;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use http::Method;
use serde::Deserialize;

use self::remote_path::RemotePath;
use super::print;
use super::run::{
    self, ANSWER_TIMEOUT, Answer, Exit, Failure, NoAnswer, OtterClient, Progress, ServerArguments,
};
use crate::domain::terminal::printable;

/// How long a deletion may take, as the query of the request has it.
const DELETION_WAIT: &str = "5m";
const DELETION_TIMEOUT: Duration = Duration::from_mins(5);

/// How long the host may take to list a folder.
const LISTING_TIMEOUT: Duration = Duration::from_mins(2);

/// How long otter may let a transfer wait before it begins, because others run; and how long a
/// transfer may stand still.
const TRANSFER_PATIENCE: Duration = Duration::from_mins(30);

#[derive(Debug, Args)]
#[command(after_help = "A file is named by its datastore and its path there: isos:iso/qubes.iso, \
    or, as ESX writes it, '[isos] iso/qubes.iso'.\n\n\
    Exit status: 0 if all went well; 64, 69, 70, 75 and 77 mean the same as for `otter run`.")]
pub struct FilesCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the names in a folder, one on each line. A folder ends with a slash.
    Ls(ListCommand),
    /// Download a file.
    Get(GetCommand),
    /// Upload a file. It has its name on the datastore once all of it is there.
    Put(PutCommand),
    /// Delete a file or an empty folder.
    Rm(RemoveCommand),
}

#[derive(Debug, Args)]
struct ListCommand {
    /// The folder: DATASTORE:PATH, or DATASTORE: for the top of the datastore.
    #[arg(value_name = "DATASTORE:PATH")]
    folder: RemotePath,
    /// Also print the size in bytes and the time of the last change.
    #[arg(long, short)]
    long: bool,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Args)]
struct GetCommand {
    /// The file on the datastore.
    #[arg(value_name = "DATASTORE:PATH")]
    from: RemotePath,
    /// Where to store it: a file, which is replaced, or a directory. `-` is the standard output.
    /// The default is the name of the file, in the current directory. While the file comes, it has
    /// the name FILE.part.
    #[arg(value_name = "FILE")]
    to: Option<PathBuf>,
    /// Go on with FILE.part of a download that broke off. The file on the datastore must be the
    /// same as then.
    #[arg(long = "continue", short = 'C')]
    continues: bool,
    /// Print only errors and warnings.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Args)]
struct PutCommand {
    /// The file of this computer.
    #[arg(value_name = "FILE")]
    from: PathBuf,
    /// Where to store it. If the path is empty or ends with a slash, the file keeps its name.
    #[arg(value_name = "DATASTORE:PATH")]
    to: RemotePath,
    /// Replace a file that exists there. Without this, it is an error, unless it is the same file,
    /// and otter stored it.
    #[arg(long)]
    replace: bool,
    /// A text that is stored with the job, such as the address of a CI job.
    #[arg(long, value_name = "TEXT")]
    reference: Option<String>,
    /// Print only errors and warnings.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Args)]
struct RemoveCommand {
    /// The file, or the empty folder.
    #[arg(value_name = "DATASTORE:PATH")]
    path: RemotePath,
    /// A text that is stored with the job, such as the address of a CI job.
    #[arg(long, value_name = "TEXT")]
    reference: Option<String>,
    /// Print only errors and warnings.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    server: ServerArguments,
}

/// A page of `GET …/files`, with the fields that are printed.
#[derive(Deserialize)]
struct Listing {
    items: Vec<Item>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    bytes: Option<u64>,
    modified_at: Option<String>,
}

/// Runs `otter files` on a runtime of its own. At the end, it does not wait for background tasks.
pub fn files(command: &FilesCommand) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the runtime cannot be started")?;
    let mut progress = Progress::new(command.action.is_quiet());
    let done = runtime.block_on(run_action(&command.action, &mut progress));
    let code = match done {
        Ok(()) => 0,
        Err(failure) => run::report_failure(&mut progress, failure),
    };
    // A DNS lookup and a read of a slow disk run in threads that cannot be cancelled.
    runtime.shutdown_background();
    Ok(ExitCode::from(code))
}

async fn run_action(action: &Action, progress: &mut Progress) -> Result<(), Failure> {
    match action {
        Action::Ls(command) => list(command).await,
        Action::Get(command) => {
            let client = run::connect(&command.server).await?;
            get::get(&client, command, progress).await
        }
        Action::Put(command) => {
            let client = run::connect(&command.server).await?;
            put::put(&client, command, progress).await
        }
        Action::Rm(command) => remove(command, progress).await,
    }
}

impl Action {
    const fn is_quiet(&self) -> bool {
        match self {
            Self::Ls(_) => false,
            Self::Get(command) => command.quiet,
            Self::Put(command) => command.quiet,
            Self::Rm(command) => command.quiet,
        }
    }
}

async fn list(command: &ListCommand) -> Result<(), Failure> {
    let client = run::connect(&command.server).await?;
    let first = format!("{}&limit=1000", command.folder.query("files"));
    let terminal = std::io::stdout().is_terminal();
    let mut query = first.clone();
    loop {
        let request = client.request(Method::GET, &query);
        let page: Listing = success(OtterClient::answer(request, LISTING_TIMEOUT).await)?.read()?;
        let lines = page.items.iter().map(|item| item.line(command.long, terminal));
        print(&lines.collect::<String>());
        match page.next {
            Some(cursor) => query = format!("{first}&cursor={cursor}"),
            None => return Ok(()),
        }
    }
}

async fn remove(command: &RemoveCommand, progress: &mut Progress) -> Result<(), Failure> {
    let client = run::connect(&command.server).await?;
    let query = format!("{}&wait={DELETION_WAIT}", command.path.query("file"));
    let mut request = client.request(Method::DELETE, &query);
    if let Some(reference) = &command.reference {
        request = request.header("otter-reference", reference);
    }
    success(OtterClient::answer(request, DELETION_TIMEOUT + ANSWER_TIMEOUT).await)?;
    progress.info(&format!("{} is deleted", command.path));
    Ok(())
}

impl Item {
    /// The line of the list. On a terminal, characters that control it are escaped, because others
    /// choose the names.
    fn line(&self, long: bool, terminal: bool) -> String {
        let Self { name, kind, bytes, modified_at } = self;
        let name = if terminal { printable(name).into_owned() } else { name.clone() };
        let slash = if kind == "folder" { "/" } else { "" };
        if !long {
            return format!("{name}{slash}\n");
        }
        let bytes = bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
        let modified = modified_at.as_deref().unwrap_or("-");
        let modified = printable(modified);
        format!("{bytes:>15} {modified:<20} {name}{slash}\n")
    }
}

/// The answer, if it came and is a success.
///
/// # Errors
/// The reason why not, with its exit code.
fn success(answered: Result<Answer, NoAnswer>) -> Result<Answer, Failure> {
    let answer = answered.map_err(no_answer)?;
    if answer.status.is_success() { Ok(answer) } else { Err(answer.failure()) }
}

fn no_answer(NoAnswer { reason, .. }: NoAnswer) -> Failure {
    Failure::new(Exit::Unavailable, format!("otter gave no answer: {reason}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        files: FilesCommand,
    }

    #[test]
    fn each_action_has_its_arguments() {
        let read = |words: &str| {
            Line::try_parse_from(["files"].into_iter().chain(words.split_whitespace()))
        };
        let all =
            ["ls a:", "ls -l a:b", "get a:b", "get a:b c -C", "put c a:b --replace", "rm a:b"];
        for right in all {
            assert!(read(right).is_ok(), "{right}");
        }
        for wrong in ["", "ls", "ls a", "ls a:b -C", "get a", "put a:b", "rm a", "rm a:b c"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_shows_what_others_named_without_control() {
        let item = |name: &str, kind: &str| Item {
            name: name.to_owned(),
            kind: kind.to_owned(),
            bytes: (kind == "file").then_some(64),
            modified_at: Some("2026-05-11T08:02:19Z".to_owned()),
        };
        assert_eq!(item("iso", "folder").line(false, true), "iso/\n");
        let long = item("a b", "file").line(true, true);
        assert_eq!(long, "             64 2026-05-11T08:02:19Z a b\n");
        assert_eq!(item("\u{9b}2J", "file").line(false, true), "\\u{9b}2J\n");
        assert_eq!(item("\u{9b}2J", "file").line(false, false), "\u{9b}2J\n");
    }
}
