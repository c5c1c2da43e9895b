//! The table of the keys of calls that send input to a machine, with their answers.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::document::DocumentError;
use super::transaction::{Transaction, Write};
use super::{Reader, audit, document, microseconds};
use crate::domain::audit::AuditRecord;
use crate::domain::input::SentInput;
use crate::storage::{IdempotencyKey, InputAnswer, StorageError, StoredInput};

const INSERT: &str = "INSERT INTO input_keys \
     (caller, method, path, key, fingerprint, created_at) VALUES ($1, $2, $3, $4, $5, $6)";

const ANSWER: &str = "UPDATE input_keys SET finished_at = $5, sent_events = $6, \
     sent_characters = $7, interruption = $8, result = $9 \
     WHERE caller = $1 AND method = $2 AND path = $3 AND key = $4 AND finished_at IS NULL";

const FIND: &str = "SELECT fingerprint, finished_at, sent_events, sent_characters, interruption, \
     result FROM input_keys WHERE caller = $1 AND method = $2 AND path = $3 AND key = $4";

/// Adds the key of a call that sends input.
pub struct InsertInput(pub IdempotencyKey);

#[async_trait]
impl Write for InsertInput {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        let IdempotencyKey { caller, method, path, key, fingerprint, created_at } = &self.0;
        sqlx::query(INSERT)
            .bind(caller)
            .bind(method)
            .bind(path)
            .bind(key)
            .bind(hex::encode(fingerprint))
            .bind(microseconds(*created_at))
            .execute(transaction.statement())
            .await?;
        Ok(())
    }
}

/// Adds the audit records of a call that sends input, and its answer if it has a key.
pub struct SaveInputAnswer {
    answer: Option<(IdempotencyKey, InputAnswer)>,
    /// The document of the interruption in the answer.
    interruption: Option<String>,
    audit: Vec<AuditRecord>,
}

impl SaveInputAnswer {
    /// The write of these records and this answer.
    ///
    /// # Errors
    /// If the interruption cannot be encoded.
    pub fn new(
        answer: Option<(IdempotencyKey, InputAnswer)>,
        audit: Vec<AuditRecord>,
    ) -> Result<Self, StorageError> {
        let interruption = answer.as_ref().and_then(|(_, answer)| answer.interruption.as_deref());
        let interruption = interruption.map(document::encode_failure).transpose();
        Ok(Self { answer, interruption: interruption.map_err(unreadable)?, audit })
    }
}

#[async_trait]
impl Write for SaveInputAnswer {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        if let Some((key, answer)) = &self.answer {
            let IdempotencyKey { caller, method, path, key, fingerprint: _, created_at: _ } = key;
            let InputAnswer { sent, finished_at, interruption: _, result } = answer;
            sqlx::query(ANSWER)
                .bind(caller)
                .bind(method)
                .bind(path)
                .bind(key)
                .bind(microseconds(*finished_at))
                .bind(i64::from(sent.events))
                .bind(i64::from(sent.characters))
                .bind(&self.interruption)
                .bind(result)
                .execute(transaction.statement())
                .await?;
        }
        audit::append(transaction, &self.audit).await
    }
}

/// Looks up the key of a call that sends input.
pub async fn find(
    reader: &mut Reader<'_>,
    key: &IdempotencyKey,
) -> Result<Option<StoredInput>, StorageError> {
    let IdempotencyKey { caller, method, path, key: name, fingerprint: _, created_at: _ } = key;
    let select = sqlx::query(FIND).bind(caller).bind(method).bind(path).bind(name);
    let row = select.fetch_optional(reader.statement()).await?;
    row.map(|row| read(key, &row)).transpose()
}

fn read(key: &IdempotencyKey, row: &SqliteRow) -> Result<StoredInput, StorageError> {
    let fingerprint: &str = row.try_get("fingerprint")?;
    let finished_at: Option<i64> = row.try_get("finished_at")?;
    let number = |column: &str| -> Result<u32, sqlx::Error> {
        let number: Option<i64> = row.try_get(column)?;
        Ok(number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default())
    };
    let interruption: Option<&str> = row.try_get("interruption")?;
    let interruption =
        interruption.map(document::decode_failure).transpose().map_err(unreadable)?;
    let answer = match finished_at.and_then(|at| Timestamp::from_microsecond(at).ok()) {
        Some(finished_at) => Some(InputAnswer {
            sent: SentInput {
                events: number("sent_events")?,
                characters: number("sent_characters")?,
            },
            finished_at,
            interruption: interruption.map(Box::new),
            result: row.try_get("result")?,
        }),
        None => None,
    };
    let fingerprint_matches = fingerprint == hex::encode(key.fingerprint);
    Ok(StoredInput { fingerprint_matches, answer })
}

fn unreadable(source: DocumentError) -> StorageError {
    StorageError::unreadable("answer of a call of input", source)
}
