//! A program that runs until it is stopped, heard line by line.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::harness::PATIENCE;

/// How many lines of it wait to be heard.
const UNHEARD: usize = 1_000;
/// How many are told when it does not say what it should.
const TOLD: usize = 20;

/// A program and all that it starts; gone when this is dropped.
pub struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
    heard: VecDeque<String>,
}

impl Program {
    pub fn start(mut command: Command) -> Self {
        // A group of its own, so that the members of a shell's pipeline end with it.
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel(UNHEARD);
        std::thread::spawn(move || {
            // It ends with the program, or with whoever listens.
            for line in said.lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, heard: VecDeque::new() }
    }

    /// The next line that fits.
    pub async fn says(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        self.says_within(PATIENCE, what, fits).await
    }

    /// The same, with this much patience.
    pub async fn says_within(
        &mut self,
        patience: Duration,
        what: &str,
        fits: impl Fn(&str) -> bool,
    ) -> String {
        let search = async {
            loop {
                let line = self.lines.recv().await?;
                if fits(&line) {
                    return Some(line);
                }
                if self.heard.len() == TOLD {
                    self.heard.pop_front();
                }
                self.heard.push_back(line);
            }
        };
        let found = timeout(patience, search).await.ok().flatten();
        found.unwrap_or_else(|| panic!("it does not say {what}; last it said {:#?}", self.heard))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already gone where it ended by itself.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
