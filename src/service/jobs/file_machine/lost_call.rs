//! Resolves a lost call on a file. A pure function decides by this table, after `esx.settle`:
//!
//! ```text
//! call           what the host has now                        resolution
//! ─────────────  ───────────────────────────────────────────  ──────────
//! move_part      the target with the bytes, and no part file  succeeded
//!                the part file with the bytes                 send again
//!                anything else                                unknown
//! delete_file    nothing at the target                        succeeded
//!                what was there before                        send again
//!                anything else                                unknown
//! create_folder  a folder at the target                       succeeded
//!                nothing at the target                        send again
//!                a file at the target                         unknown
//! ```
//! A call is sent at most [`MAX_SENDS`] times, including the first time.

use crate::domain::file_job::{FileCall, FileEvidence, FileIntent};
use crate::service::jobs::lost_call::MAX_SENDS;

/// What becomes of a lost call on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The host has what the call causes.
    Succeeded,
    /// The call did not run, and is sent again.
    SendAgain,
    /// It cannot be known whether the call ran. The text says why.
    Unknown(&'static str),
}

/// Resolves a lost call by a comparison of the committed intent with what the host has now.
#[must_use]
pub fn resolve(intent: &FileIntent, now: &FileEvidence) -> Resolution {
    match state_after(intent, now) {
        Resolution::SendAgain if intent.asked >= MAX_SENDS => {
            Resolution::Unknown("the call was lost each time that it was sent")
        }
        resolution => resolution,
    }
}

fn state_after(intent: &FileIntent, now: &FileEvidence) -> Resolution {
    let FileEvidence { target, part } = now;
    match intent.call {
        FileCall::MovePart { .. } => {
            let sent = intent.received.map(|received| received.bytes);
            match (target, part) {
                (Some(file), None) if !file.is_folder && Some(file.bytes) == sent => {
                    Resolution::Succeeded
                }
                (_, Some(file)) if !file.is_folder && Some(file.bytes) == sent => {
                    Resolution::SendAgain
                }
                _ => Resolution::Unknown("neither the file nor its part file has what was sent"),
            }
        }
        FileCall::Delete => match target {
            None => Resolution::Succeeded,
            target if *target == intent.before.target => Resolution::SendAgain,
            Some(_) => Resolution::Unknown("something else is there now"),
        },
        FileCall::CreateFolder => match target {
            Some(folder) if folder.is_folder => Resolution::Succeeded,
            None => Resolution::SendAgain,
            Some(_) => Resolution::Unknown("a file is there now"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::artifact::Sha256Sum;
    use crate::domain::file_job::{FileFact, Received};

    #[expect(clippy::unnecessary_wraps, reason = "the callers pass what a look found, or nothing")]
    fn file(bytes: u64) -> Option<FileFact> {
        Some(FileFact { bytes, modified_at: None, is_folder: false, is_empty: false })
    }

    #[expect(clippy::unnecessary_wraps, reason = "the callers pass what a look found, or nothing")]
    fn folder() -> Option<FileFact> {
        Some(FileFact { bytes: 0, modified_at: None, is_folder: true, is_empty: true })
    }

    fn intent(call: FileCall, target: Option<FileFact>) -> FileIntent {
        let sha256 = Sha256Sum([1; 32]);
        FileIntent {
            call,
            before: FileEvidence { target, part: None },
            received: Some(Received { bytes: 5, sha256, unchanged: false }),
            asked: 1,
            end: None,
        }
    }

    #[test]
    fn each_row_of_the_table_holds() {
        let moved = || intent(FileCall::MovePart { replace: true }, None);
        let deleted = || intent(FileCall::Delete, file(5));
        let created = || intent(FileCall::CreateFolder, None);
        for (intent, target, part, expected) in [
            (moved(), file(5), None, "succeeded"),
            (moved(), file(5), file(5), "send again"),
            (moved(), None, file(5), "send again"),
            (moved(), file(4), None, "unknown"),
            (moved(), folder(), None, "unknown"),
            (moved(), None, file(4), "unknown"),
            (moved(), None, None, "unknown"),
            (deleted(), None, None, "succeeded"),
            (deleted(), file(5), None, "send again"),
            (deleted(), file(6), None, "unknown"),
            (deleted(), folder(), None, "unknown"),
            (created(), folder(), None, "succeeded"),
            (created(), None, None, "send again"),
            (created(), file(5), None, "unknown"),
        ] {
            let now = FileEvidence { target, part };
            let word = |intent: &FileIntent| match resolve(intent, &now) {
                Resolution::Succeeded => "succeeded",
                Resolution::SendAgain => "send again",
                Resolution::Unknown(_) => "unknown",
            };
            assert_eq!(word(&intent), expected, "{intent:?} {now:?}");
            let last = FileIntent { asked: MAX_SENDS, ..intent };
            let at_last = if expected == "send again" { "unknown" } else { expected };
            assert_eq!(word(&last), at_last, "{last:?} {now:?}");
        }
    }
}
