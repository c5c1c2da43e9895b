//! The result codes of SQLite, and what they mean for the files of the state directory.

use std::path::Path;

use super::StoreError;

/// The primary result codes of SQLite that are about a file.
const SQLITE_READONLY: i32 = 8;
const SQLITE_IOERR: i32 = 10;
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_CANTOPEN: i32 = 14;
const SQLITE_NOTADB: i32 = 26;

/// The extended result codes of SQLite for a file that cannot be read.
const SQLITE_IOERR_READ: i32 = SQLITE_IOERR | (1 << 8);
const SQLITE_IOERR_SHORT_READ: i32 = SQLITE_IOERR | (2 << 8);

/// Turns an error of SQLite into the error for a process that opens this database file.
pub fn refusal(directory: &Path, file: &Path, source: sqlx::Error) -> StoreError {
    match extended_code(&source).map(primary_code) {
        Some(SQLITE_NOTADB | SQLITE_CORRUPT) => {
            StoreError::NotADatabase { path: file.to_owned(), source }
        }
        Some(SQLITE_READONLY | SQLITE_CANTOPEN | SQLITE_IOERR | SQLITE_FULL) => {
            StoreError::NotWritable { path: directory.to_owned(), source: source.into() }
        }
        _ => StoreError::Open { path: file.to_owned(), source },
    }
}

/// Whether an SQLite error means that a file cannot be created or written.
pub fn is_unwritable(source: &sqlx::Error) -> bool {
    extended_code(source).is_some_and(|code| match code {
        SQLITE_IOERR_READ | SQLITE_IOERR_SHORT_READ => false,
        _ => matches!(primary_code(code), SQLITE_IOERR | SQLITE_FULL | SQLITE_CANTOPEN),
    })
}

fn extended_code(source: &sqlx::Error) -> Option<i32> {
    source.as_database_error()?.code()?.parse().ok()
}

/// The primary result code, which is the lowest byte of an extended result code.
const fn primary_code(extended: i32) -> i32 {
    extended & 0xff
}
