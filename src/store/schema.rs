//! The schema of the database: its migrations, and its version.

use sqlx::migrate::Migrator;

pub static MIGRATIONS: Migrator = sqlx::migrate!("src/store/migrations");

/// The schema that this otter works with: the number of its last migration.
pub fn current() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}
