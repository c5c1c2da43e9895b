//! Runs the command of `otter run` in a process group of its own. If `otter run` is in the
//! foreground of a terminal, the process group of the command is in the foreground while the
//! command runs.
//!
//! ```text
//! started ──► runs ──► ended
//!              │ ▲ stopped (Ctrl-Z): `otter run` takes the terminal back and stops too
//!              └─┘ continued: the command gets the terminal again
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

/// A command that runs. Dropping this value kills the command and its child processes.
pub struct RunningCommand {
    child: Child,
    group: Pid,
    /// Whether `otter run` was in the foreground of a terminal when the command was started.
    has_terminal: bool,
    ended: bool,
}

impl RunningCommand {
    /// Starts the command.
    ///
    /// # Errors
    /// Fails if the operating system cannot execute the command.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let has_terminal = is_in_foreground();
        let child = command.process_group(0).spawn()?;
        let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let group = id.ok_or_else(|| io::Error::other("the command has no process id"))?;
        let running = Self { child, group, has_terminal, ended: false };
        running.move_to_foreground();
        Ok(running)
    }

    /// Sends a signal to the process group of the command.
    pub fn signal(&self, signal: Signal) {
        // An error is ignored, because the process group may be gone already.
        let _ = kill_process_group(self.group, signal);
        if signal != Signal::KILL {
            // A stopped process handles a signal only after it is continued, so the group is
            // continued.
            let _ = kill_process_group(self.group, Signal::CONT);
        }
    }

    /// Waits until the command ends, and returns its exit status.
    ///
    /// # Errors
    /// Fails if the operating system cannot report the status.
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

    /// Kills all processes in the command's process group, including those that outlive the
    /// command.
    pub fn kill_group(&self) {
        let _ = kill_process_group(self.group, Signal::KILL);
    }

    /// If the user has stopped the command from the terminal, stops `otter run` too, so that the
    /// shell gets the terminal.
    fn stop_with_command(&self) {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let stopped = waitid(WaitId::Pid(self.group), options).ok().flatten();
        if stopped.is_none_or(|status| !status.stopped()) {
            return;
        }
        self.take_back_terminal();
        let _ = kill_process(getpid(), Signal::STOP);
        // `otter run` was stopped by the line above and continues here, in the foreground or in the
        // background.
        if is_in_foreground() {
            self.move_to_foreground();
        }
        let _ = kill_process_group(self.group, Signal::CONT);
    }

    fn move_to_foreground(&self) {
        if self.has_terminal && tcsetpgrp(io::stdin(), self.group).is_ok() {
            // If the command read from the terminal before it was in the foreground, the system has
            // stopped it. The signal continues the command.
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

/// The exit code of a command as a shell reports it: 128+n if signal n killed it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Whether the standard input is a terminal, and this process is in the foreground of that
/// terminal.
fn is_in_foreground() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

/// Moves this process to the foreground of the terminal. If a background process does so, the
/// system sends it SIGTTOU, which would stop the process, so the signal is blocked meanwhile.
fn take_terminal() {
    // The signal mask belongs to a thread. The signal is blocked in a thread of its own, which then
    // ends, so nothing has to be restored.
    let thread = std::thread::spawn(|| {
        let mut blocked = nix::sys::signal::SigSet::empty();
        blocked.add(nix::sys::signal::Signal::SIGTTOU);
        if blocked.thread_block().is_ok() {
            let _ = tcsetpgrp(io::stdin(), getpgrp());
        }
    });
    let _ = thread.join();
}
