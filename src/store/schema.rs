//! The schema of the database: the migrations and the current version.

use sqlx::migrate::Migrator;

pub static MIGRATIONS: Migrator = sqlx::migrate!("src/store/migrations");

/// The current schema: the number of the last migration.
pub fn current() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}
