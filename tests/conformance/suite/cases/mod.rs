//! The cases, by the part of the contract that they hold a backend to.

mod barriers;
mod calls;
mod facts;
mod following_tasks;
mod lost_answers;
mod reads;
mod sessions;
mod shutdown;
mod snapshots;

use super::Case;

/// All of them.
pub const ALL: [&[Case]; 9] = [
    facts::CASES,
    sessions::CASES,
    calls::CASES,
    snapshots::CASES,
    lost_answers::CASES,
    following_tasks::CASES,
    barriers::CASES,
    reads::CASES,
    shutdown::CASES,
];
