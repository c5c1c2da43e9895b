//! The cases, grouped by the part of the contract that they check.

mod barriers;
mod calls;
mod facts;
mod following_tasks;
mod lost_answers;
mod reads;
mod screens;
mod sessions;
mod shutdown;
mod snapshots;

use super::Case;

/// All cases.
pub const ALL: [&[Case]; 10] = [
    facts::CASES,
    sessions::CASES,
    calls::CASES,
    snapshots::CASES,
    lost_answers::CASES,
    following_tasks::CASES,
    barriers::CASES,
    reads::CASES,
    screens::CASES,
    shutdown::CASES,
];
