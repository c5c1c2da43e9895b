//! The command of a run: a process group of its own, which has the terminal while it runs, if there
//! is one.
//!
//! ```text
//! started ──► runs ──► ended
//!              │ ▲ stopped (Ctrl-Z): this process gives the terminal back and stops too
//!              └─┘ continued: it gets the terminal again
//! ```

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpgrp, getpid, kill_process, kill_process_group, waitid,
};
use rustix::termios::{tcgetpgrp, tcsetpgrp};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// A command that runs. Dropped, it and all that it has started are killed.
pub struct RunningCommand {
    child: Child,
    group: Pid,
    /// Whether this process had the terminal when it began.
    has_terminal: bool,
    ended: bool,
}

impl RunningCommand {
    /// Starts it.
    ///
    /// # Errors
    /// Where it cannot be.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let has_terminal = is_in_foreground();
        let child = command.process_group(0).spawn()?;
        let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let group = id.ok_or_else(|| io::Error::other("the command has no process id"))?;
        let running = Self { child, group, has_terminal, ended: false };
        running.move_to_foreground();
        Ok(running)
    }

    /// Sends a signal to it and to all that it has started.
    pub fn signal(&self, signal: Signal) {
        // Nobody may be left.
        let _ = kill_process_group(self.group, signal);
        if signal != Signal::KILL {
            // What is stopped hears nothing.
            let _ = kill_process_group(self.group, Signal::CONT);
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let mut changes = signal(SignalKind::child())?;
        loop {
            tokio::select! {
                biased;
                status = self.child.wait() => {
                    self.ended = true;
                    self.take_back_terminal();
                    return status;
                }
                _ = changes.recv(), if self.has_terminal => self.stop_with_command(),
            }
        }
    }

    /// Kills what it may have left.
    pub fn kill_group(&self) {
        let _ = kill_process_group(self.group, Signal::KILL);
    }

    /// Where the command was stopped from the terminal, stops too, so that the shell gets the
    /// terminal.
    fn stop_with_command(&self) {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let stopped = waitid(WaitId::Pid(self.group), options).ok().flatten();
        if stopped.is_none_or(|status| !status.stopped()) {
            return;
        }
        self.take_back_terminal();
        let _ = kill_process(getpid(), Signal::STOP);
        // Here this process was continued: in front, or in the background, where it stays.
        if is_in_foreground() {
            self.move_to_foreground();
        }
        let _ = kill_process_group(self.group, Signal::CONT);
    }

    fn move_to_foreground(&self) {
        if self.has_terminal && tcsetpgrp(io::stdin(), self.group).is_ok() {
            // It may have read from the terminal before it had it, and been stopped for that.
            let _ = kill_process_group(self.group, Signal::CONT);
        }
    }

    fn take_back_terminal(&self) {
        if self.has_terminal && tcgetpgrp(io::stdin()).is_ok_and(|group| group == self.group) {
            take_terminal();
        }
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        if !self.ended {
            self.kill_group();
            self.take_back_terminal();
        }
    }
}

/// What a command exits with in a shell's words: 128+n where it died of signal n.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Whether the standard input is a terminal, and this process in front of it.
fn is_in_foreground() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

/// Takes the terminal from the background, which stops who does not hold SIGTTOU off.
fn take_terminal() {
    // The mask is a thread's own, and one that ends again needs no putting back.
    let thread = std::thread::spawn(|| {
        let mut blocked = nix::sys::signal::SigSet::empty();
        blocked.add(nix::sys::signal::Signal::SIGTTOU);
        if blocked.thread_block().is_ok() {
            let _ = tcsetpgrp(io::stdin(), getpgrp());
        }
    });
    let _ = thread.join();
}
