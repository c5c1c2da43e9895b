//! `otter files` as a process: what it prints, its exit codes, a download that goes on after a
//! break, and the bar on a terminal.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;

use crate::harness::{Daemon, TIMEOUT, eventually, otter_command, run_to_exit};

/// More than one chunk of the command.
const SIZE: usize = 1_500_000;

/// A daemon that may write to the datastore `isos`, and a directory for files of this computer.
struct Fixture {
    daemon: Daemon,
    directory: TempDir,
}

impl Fixture {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("otter.toml");
        std::fs::write(&config, "[files]\nroots = [\"[isos]\"]\n").unwrap();
        let daemon =
            Daemon::start(&["--simulate", "--config", config.to_str().unwrap()], &[]).await;
        let ready = async || daemon.get("/readyz").await.status == 200;
        eventually("the inventory to be loaded", ready).await;
        Self { daemon, directory }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        at_url(&format!("http://{}", self.daemon.address()), self.directory.path(), arguments)
    }

    async fn otter(&self, arguments: &[&str]) -> (Option<i32>, String) {
        run_to_exit(self.command(arguments)).await
    }
}

/// `otter files` for an otter at this address, in this directory.
fn at_url(url: &str, directory: &Path, arguments: &[&str]) -> std::process::Command {
    let mut command = otter_command(&["files"]);
    command.args(arguments).env("OTTER_URL", url).current_dir(directory);
    command
}

fn bytes() -> Vec<u8> {
    (0..SIZE).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_put_listed_got_and_removed() {
    let fixture = Fixture::start().await;
    let at = |name: &str| fixture.directory.path().join(name);
    std::fs::write(at("a.iso"), bytes()).unwrap();
    let (code, text) = fixture.otter(&["put", "a.iso", "isos:"]).await;
    assert!(
        code == Some(0) && text.starts_with("otter: [isos] a.iso is stored (1.4 MiB"),
        "{text}"
    );
    let (code, text) = fixture.otter(&["put", "a.iso", "[isos] a.iso"]).await;
    assert!(code == Some(0) && text.contains("was there already"), "{text}");
    let (code, text) = fixture.otter(&["ls", "isos:"]).await;
    assert!(code == Some(0) && text.lines().any(|line| line == "a.iso"), "{text}");
    let (code, text) = fixture.otter(&["ls", "-l", "isos:"]).await;
    let long = |line: &str| line.starts_with("        1500000 2") && line.ends_with("Z a.iso");
    assert!(code == Some(0) && text.lines().any(long), "{text}");

    let (code, text) = fixture.otter(&["get", "isos:a.iso", "b.iso"]).await;
    assert_eq!((code, text.as_str()), (Some(0), "otter: [isos] a.iso is in b.iso (1.4 MiB)\n"));
    assert!(std::fs::read(at("b.iso")).unwrap() == bytes());
    assert!(!at("b.iso.part").exists());
    let printed = fixture.command(&["get", "isos:a.iso", "-"]).output().unwrap();
    assert!(printed.status.success() && printed.stdout == bytes());
    // The first half of a download that broke off is there. A complete part is read again.
    for kept in [SIZE / 2, SIZE] {
        std::fs::write(at("c.iso.part"), &bytes()[..kept]).unwrap();
        let (code, text) = fixture.otter(&["get", "isos:a.iso", "c.iso", "-C", "-q"]).await;
        assert_eq!((code, text.as_str()), (Some(0), ""));
        assert!(std::fs::read(at("c.iso")).unwrap() == bytes());
    }

    std::fs::write(at("a.iso"), b"other").unwrap();
    let (code, text) = fixture.otter(&["put", "a.iso", "isos:"]).await;
    assert!(code == Some(64) && text.starts_with("otter: file-exists: "), "{text}");
    let (code, text) = fixture.otter(&["put", "a.iso", "isos:", "--replace", "-q"]).await;
    assert_eq!((code, text.as_str()), (Some(0), ""));
    let rm = ["rm", "isos:a.iso", "--reference", "run-4711"];
    let (code, text) = fixture.otter(&rm).await;
    assert_eq!((code, text.as_str()), (Some(0), "otter: [isos] a.iso is deleted\n"));
    let jobs = fixture.daemon.get("/v1/jobs?reference=run-4711").await.expect(200);
    assert_eq!(jobs.items("kind"), ["file.delete"]);
    let (code, text) = fixture.otter(&rm).await;
    assert!(code == Some(64) && text.starts_with("otter: not-found: "), "{text}");
    let (code, text) = fixture.otter(&["get", "isos:a.iso"]).await;
    assert!(code == Some(64) && text.starts_with("otter: not-found: "), "{text}");
    assert!(!at("a.iso.part").exists(), "nothing is made for a file that does not exist");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_says_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = "http://127.0.0.1:1";
    std::fs::write(directory.path().join("a.iso"), b"a").unwrap();
    for (expected, arguments) in [
        (64, &["ls", "isos"][..]),
        (64, &["put", "none.iso", "isos:"][..]),
        (64, &["put", ".", "isos:"][..]),
        (64, &["get", "isos:"][..]),
        (69, &["put", "a.iso", "isos:"][..]),
        (69, &["get", "isos:a.iso"][..]),
        (69, &["rm", "isos:a.iso"][..]),
        (69, &["ls", "isos:"][..]),
    ] {
        let (code, text) = run_to_exit(at_url(nowhere, directory.path(), arguments)).await;
        assert_eq!(code, Some(expected), "{arguments:?}: {text}");
    }
}

/// The server is a socket, which breaks off where a host would.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_goes_on_where_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234",
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\n\
         56789",
        // A server that sends the whole file, although it was asked for a part.
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabcdefghij",
    ];
    let serving = std::thread::spawn(move || {
        answers.map(|answer| {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head = lines.map(Result::unwrap).take_while(|line| !line.is_empty());
            let head: Vec<String> = head.map(|line| line.to_ascii_lowercase()).collect();
            stream.write_all(answer.as_bytes()).unwrap();
            head.into_iter().find(|line| line.starts_with("range: "))
        })
    });
    let get = async |arguments: &[&str]| {
        let arguments = [&["get", "isos:a.iso"][..], arguments].concat();
        run_to_exit(at_url(&url, directory.path(), &arguments)).await
    };
    let (file, part) = (directory.path().join("a.iso"), directory.path().join("a.iso.part"));
    let (code, text) = get(&[]).await;
    assert!(
        code == Some(69) && text.contains("--continue goes on with a.iso.part (5 B)"),
        "{text}"
    );
    assert_eq!(std::fs::read(&part).unwrap(), b"01234");
    assert!(!file.exists());
    assert_eq!(get(&["--continue", "-q"]).await, (Some(0), String::new()));
    assert_eq!(std::fs::read(&file).unwrap(), b"0123456789");
    std::fs::rename(&file, &part).unwrap();
    assert_eq!(get(&["-C", "-q"]).await, (Some(0), String::new()));
    assert_eq!(std::fs::read(&file).unwrap(), b"abcdefghij");
    let ranges = serving.join().unwrap();
    let ranges: Vec<Option<&str>> = ranges.iter().map(Option::as_deref).collect();
    assert_eq!(ranges, [None, Some("range: bytes=5-"), Some("range: bytes=10-")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_a_bar() {
    let fixture = Fixture::start().await;
    std::fs::write(fixture.directory.path().join("a.iso"), bytes()).unwrap();
    let put = fixture.otter(&["put", "a.iso", "isos:", "-q"]).await;
    assert_eq!(put, (Some(0), String::new()));
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let end =
        OpenOptions::new().read(true).write(true).open(OsStr::from_bytes(name.to_bytes())).unwrap();
    let mut get = fixture.command(&["get", "isos:a.iso", "b.iso"]);
    get.stdout(Stdio::null()).stderr(end).env_remove("NO_COLOR");
    let mut child = get.spawn().unwrap();
    // Reading ends when no process has the terminal open.
    drop(get);
    let mut terminal = File::from(terminal);
    let read = tokio::task::spawn_blocking(move || {
        let (mut shown, mut part) = (Vec::new(), [0; 4_096]);
        while let Ok(length @ 1..) = terminal.read(&mut part) {
            shown.extend_from_slice(&part[..length]);
        }
        assert!(child.wait().unwrap().success());
        String::from_utf8(shown).unwrap()
    });
    let shown = tokio::time::timeout(TIMEOUT, read).await.expect("the end of the process").unwrap();
    assert!(shown.starts_with("\r\u{1b}[Kotter: a.iso ["), "{shown:?}");
    assert!(shown.contains(" % of 1.4 MiB"), "{shown:?}");
    let last = "\r\u{1b}[Kotter: [isos] a.iso is in b.iso (1.4 MiB)\r\n";
    assert!(shown.ends_with(last), "{shown:?}");
}
