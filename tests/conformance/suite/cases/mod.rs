//! The cases, by the part of the contract that they hold a backend to.

mod barriers;
mod calls;
mod facts;
mod following;
mod losses;
mod reads;
mod sessions;
mod snapshots;
mod stopping;

use super::Case;

/// All of them.
pub const ALL: [&[Case]; 9] = [
    facts::CASES,
    sessions::CASES,
    calls::CASES,
    snapshots::CASES,
    losses::CASES,
    following::CASES,
    barriers::CASES,
    reads::CASES,
    stopping::CASES,
];
