//! A program that runs until the test stops it, and its output line by line.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::harness::{TIMEOUT, eventually};

/// The number of unread lines that are kept.
const LINES_BUFFERED: usize = 1_000;
/// The number of last lines in the message if the expected line does not come.
const LINES_SHOWN: usize = 20;

/// A running program. Dropping it kills the program and its child processes.
pub struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
    last_lines: VecDeque<String>,
}

impl Program {
    pub fn start(mut command: Command) -> Self {
        // A process group, so that all processes of a pipeline can be killed.
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel(LINES_BUFFERED);
        std::thread::spawn(move || {
            // The thread ends with the program or with the receiver.
            for line in stdout.lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, last_lines: VecDeque::new() }
    }

    /// Waits for the next line for which `fits` holds, and returns it.
    pub async fn wait_for_line(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        self.wait_for_line_within(TIMEOUT, what, fits).await
    }

    /// Like [`Program::wait_for_line`], with another time limit.
    pub async fn wait_for_line_within(
        &mut self,
        limit: Duration,
        what: &str,
        fits: impl Fn(&str) -> bool,
    ) -> String {
        let search = async {
            loop {
                let line = self.lines.recv().await?;
                if fits(&line) {
                    return Some(line);
                }
                if self.last_lines.len() == LINES_SHOWN {
                    self.last_lines.pop_front();
                }
                self.last_lines.push_back(line);
            }
        };
        let found = timeout(limit, search).await.ok().flatten();
        found.unwrap_or_else(|| panic!("no line: {what}; the last lines: {:#?}", self.last_lines))
    }

    /// Ends the program by `SIGTERM`, so that it removes its own files, and waits for its end.
    pub async fn terminate(mut self) {
        kill_process_group(Pid::from_child(&self.child), Signal::TERM).unwrap();
        eventually("the program to end", async || self.child.try_wait().unwrap().is_some()).await;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The program may have ended by itself.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
