//! The schema of the database: its migrations, and its current version.

use sqlx::migrate::Migrator;

pub static MIGRATIONS: Migrator = sqlx::migrate!("src/store/migrations");

/// The version of the current schema, which is the number of the last migration.
pub fn current() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}
