//! The table of the numbers of the bytes of serial ports.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::transaction::{Transaction, Write};
use super::{DocumentError, Store, microseconds};
use crate::domain::ids::JobId;
use crate::domain::serial::{Gap, GapReason};
use crate::storage::{SerialStorage, StorageError, StoredSerialPort};

/// How much later the offsets of a restored database go on: bytes that came after the backup have
/// offsets that the backup does not know.
const AFTER_RESTORE: i64 = 1 << 40;

const SAVE: &str = "INSERT INTO serial_ports \
     (machine, port, reserved, next, gaps, mark_job, mark_offset, updated_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
     ON CONFLICT (machine, port) DO UPDATE SET \
     reserved = CASE WHEN serial_ports.reserved > $3 THEN serial_ports.reserved ELSE $3 END, \
     next = $4, gaps = $5, mark_job = $6, mark_offset = $7, updated_at = $8";

const FIND: &str = "SELECT machine, port, reserved, next, gaps, mark_job, mark_offset, updated_at \
     FROM serial_ports WHERE machine = $1 AND port = $2";

#[async_trait]
impl SerialStorage for Store {
    async fn save_serial_port(&self, port: StoredSerialPort) -> Result<(), StorageError> {
        let gaps: Vec<GapDocument> = port.gaps.iter().map(GapDocument::from).collect();
        let encoded = serde_json::to_string(&gaps).map_err(DocumentError::Json);
        let gaps = encoded.map_err(|error| unreadable(&port.machine, port.port, error))?;
        self.write(SavePort { port, gaps }).await
    }

    async fn serial_port(
        &self,
        machine: &str,
        port: i32,
    ) -> Result<Option<StoredSerialPort>, StorageError> {
        let mut reader = self.read().await?;
        let select = sqlx::query(FIND).bind(machine).bind(i64::from(port));
        let row = select.fetch_optional(reader.statement()).await?;
        row.as_ref().map(read).transpose()
    }

    async fn forget_serial_ports(&self, before: Timestamp) -> Result<u64, StorageError> {
        self.write(ForgetPorts(before)).await
    }
}

/// Adds or replaces the row of a port.
struct SavePort {
    port: StoredSerialPort,
    /// The gaps as JSON.
    gaps: String,
}

#[async_trait]
impl Write for SavePort {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        let StoredSerialPort { machine, port, reserved, next, gaps: _, mark, updated_at } =
            &self.port;
        sqlx::query(SAVE)
            .bind(machine)
            .bind(i64::from(*port))
            .bind(column(*reserved))
            .bind(next.map(column))
            .bind(&self.gaps)
            .bind(mark.map(|(job, _)| job.to_string()))
            .bind(mark.map(|(_, offset)| column(offset)))
            .bind(microseconds(*updated_at))
            .execute(transaction.statement())
            .await
            .map(drop)
    }
}

struct ForgetPorts(Timestamp);

#[async_trait]
impl Write for ForgetPorts {
    type Output = u64;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<u64, sqlx::Error> {
        let forgotten = sqlx::query("DELETE FROM serial_ports WHERE updated_at < $1")
            .bind(microseconds(self.0))
            .execute(transaction.statement())
            .await?;
        Ok(forgotten.rows_affected())
    }
}

/// Raises the offsets of all ports after a restore, because bytes that came after the backup have
/// offsets that the backup does not know.
pub struct RaiseOffsets;

#[async_trait]
impl Write for RaiseOffsets {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE serial_ports SET reserved = reserved + $1, next = NULL")
            .bind(AFTER_RESTORE)
            .execute(transaction.statement())
            .await
            .map(drop)
    }
}

fn read(row: &SqliteRow) -> Result<StoredSerialPort, StorageError> {
    let machine: String = row.try_get("machine")?;
    let port: i64 = row.try_get("port")?;
    let port = i32::try_from(port).unwrap_or_default();
    let wrong = |error: DocumentError| unreadable(&machine, port, error);
    let gaps: &str = row.try_get("gaps")?;
    let gaps: Vec<GapDocument> =
        serde_json::from_str(gaps).map_err(|error| wrong(DocumentError::Json(error)))?;
    let gaps = gaps.into_iter().map(Gap::try_from).collect::<Result<_, _>>().map_err(wrong)?;
    let mark_job: Option<String> = row.try_get("mark_job")?;
    let mark_job = mark_job.map(|id| id.parse::<JobId>().map_err(|_| DocumentError::JobId(id)));
    let mark_offset: Option<i64> = row.try_get("mark_offset")?;
    let updated_at: i64 = row.try_get("updated_at")?;
    let next: Option<i64> = row.try_get("next")?;
    let reserved: i64 = row.try_get("reserved")?;
    Ok(StoredSerialPort {
        port,
        reserved: offset(reserved),
        next: next.map(offset),
        gaps,
        mark: mark_job.transpose().map_err(wrong)?.zip(mark_offset.map(offset)),
        updated_at: Timestamp::from_microsecond(updated_at).unwrap_or_default(),
        machine,
    })
}

fn unreadable(machine: &str, port: i32, error: DocumentError) -> StorageError {
    StorageError::unreadable(format!("serial port {port} of {machine}"), error)
}

/// An offset within the range of a column.
fn column(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

fn offset(column: i64) -> u64 {
    u64::try_from(column).unwrap_or_default()
}

/// A gap, as the column `gaps` has it.
#[derive(Serialize, Deserialize)]
struct GapDocument {
    offset: u64,
    #[serde(default)]
    skipped: u64,
    /// Microseconds since 1970.
    at: i64,
    reason: String,
}

impl From<&Gap> for GapDocument {
    fn from(gap: &Gap) -> Self {
        let Gap { offset, skipped, at, reason } = *gap;
        Self { offset, skipped, at: microseconds(at), reason: reason.as_str().to_owned() }
    }
}

impl TryFrom<GapDocument> for Gap {
    type Error = DocumentError;

    fn try_from(document: GapDocument) -> Result<Self, DocumentError> {
        let GapDocument { offset, skipped, at, reason: word } = document;
        let reason =
            GapReason::parse(&word).ok_or(DocumentError::Word { what: "reason of a gap", word })?;
        Ok(Self {
            offset,
            skipped,
            at: Timestamp::from_microsecond(at).unwrap_or_default(),
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;

    use super::*;

    async fn store() -> Store {
        let store = Store::in_memory().await.unwrap();
        let writer = store.clone();
        tokio::spawn(async move { writer.run(CancellationToken::new()).await });
        store
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn port(key: i32, reserved: u64) -> StoredSerialPort {
        let gap = Gap { offset: 9, skipped: 4, at: at(7), reason: GapReason::Crash };
        StoredSerialPort {
            machine: "uuid:1".to_owned(),
            port: key,
            reserved,
            next: Some(reserved),
            gaps: vec![gap],
            mark: Some((JobId::new(Uuid::from_u128(1)), 3)),
            updated_at: at(8),
        }
    }

    #[tokio::test]
    async fn a_port_is_read_as_it_was_saved_and_its_reservation_never_shrinks() {
        let store = store().await;
        assert_eq!(store.serial_port("uuid:1", 9000).await.unwrap(), None);
        store.save_serial_port(port(9000, 100)).await.unwrap();
        assert_eq!(store.serial_port("uuid:1", 9000).await.unwrap(), Some(port(9000, 100)));
        let open = StoredSerialPort { next: None, mark: None, gaps: Vec::new(), ..port(9000, 50) };
        store.save_serial_port(open.clone()).await.unwrap();
        let kept = StoredSerialPort { reserved: 100, ..open };
        assert_eq!(store.serial_port("uuid:1", 9000).await.unwrap(), Some(kept));
        assert_eq!(store.serial_port("uuid:2", 9000).await.unwrap(), None);
    }

    #[tokio::test]
    async fn ports_that_were_not_used_for_long_are_forgotten() {
        let store = store().await;
        store.save_serial_port(port(9000, 1)).await.unwrap();
        let newer = StoredSerialPort { updated_at: at(9), ..port(9001, 1) };
        store.save_serial_port(newer).await.unwrap();
        assert_eq!(store.forget_serial_ports(at(9)).await.unwrap(), 1);
        assert_eq!(store.serial_port("uuid:1", 9000).await.unwrap(), None);
        assert!(store.serial_port("uuid:1", 9001).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_restore_leaves_no_offset_that_could_be_given_out_again() {
        let store = store().await;
        store.save_serial_port(port(9000, 5)).await.unwrap();
        store.write(RaiseOffsets).await.unwrap();
        let raised = store.serial_port("uuid:1", 9000).await.unwrap().unwrap();
        assert_eq!((raised.next, raised.reserved), (None, 5 + (1 << 40)));
    }
}
