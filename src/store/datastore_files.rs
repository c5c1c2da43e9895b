//! The tables of part files and uploads on datastores.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::transaction::{Transaction, Write};
use super::{DocumentError, Store, microseconds};
use crate::domain::artifact::Sha256Sum;
use crate::domain::file_job::{PartRecord, UploadRecord};
use crate::domain::ids::{DatastoreId, JobId};
use crate::storage::{FileStorage, StorageError};

/// The largest number of uploads that are kept.
const MAX_UPLOADS: i64 = 10_000;

#[async_trait]
impl FileStorage for Store {
    async fn insert_part(&self, part: &PartRecord) -> Result<(), StorageError> {
        self.write(InsertPart(part.clone())).await
    }

    async fn remove_part(&self, job: JobId) -> Result<(), StorageError> {
        self.write(RemovePart(job)).await
    }

    async fn parts(&self) -> Result<Vec<PartRecord>, StorageError> {
        let mut reader = self.read().await?;
        let rows = sqlx::query("SELECT job, datastore, path FROM upload_parts ORDER BY job")
            .fetch_all(reader.statement())
            .await?;
        rows.iter().map(read_part).collect()
    }

    async fn record_upload(&self, upload: &UploadRecord) -> Result<(), StorageError> {
        self.write(RecordUpload(upload.clone())).await
    }

    async fn upload(
        &self,
        datastore: &DatastoreId,
        path: &str,
    ) -> Result<Option<UploadRecord>, StorageError> {
        let mut reader = self.read().await?;
        let row = sqlx::query(
            "SELECT datastore, path, bytes, sha256, modified_at FROM uploads \
             WHERE datastore = $1 AND path = $2",
        )
        .bind(datastore.backend_text())
        .bind(path)
        .fetch_optional(reader.statement())
        .await?;
        row.as_ref().map(read_upload).transpose()
    }

    async fn remove_upload(&self, datastore: &DatastoreId, path: &str) -> Result<(), StorageError> {
        let remove = RemoveUpload { datastore: datastore.clone(), path: path.to_owned() };
        self.write(remove).await
    }
}

struct InsertPart(PartRecord);

#[async_trait]
impl Write for InsertPart {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        let PartRecord { job, datastore, path } = &self.0;
        sqlx::query(
            "INSERT INTO upload_parts (job, datastore, path) VALUES ($1, $2, $3) \
             ON CONFLICT (job) DO UPDATE SET datastore = $2, path = $3",
        )
        .bind(job.to_string())
        .bind(datastore.backend_text())
        .bind(path)
        .execute(transaction.statement())
        .await
        .map(drop)
    }
}

struct RemovePart(JobId);

#[async_trait]
impl Write for RemovePart {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM upload_parts WHERE job = $1")
            .bind(self.0.to_string())
            .execute(transaction.statement())
            .await
            .map(drop)
    }
}

struct RecordUpload(UploadRecord);

#[async_trait]
impl Write for RecordUpload {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        let UploadRecord { datastore, path, bytes, sha256, modified_at } = &self.0;
        sqlx::query(
            "INSERT INTO uploads (datastore, path, bytes, sha256, modified_at, arrival) \
             VALUES ($1, $2, $3, $4, $5, (SELECT COALESCE(MAX(arrival), 0) + 1 FROM uploads)) \
             ON CONFLICT (datastore, path) DO UPDATE SET bytes = excluded.bytes, \
             sha256 = excluded.sha256, modified_at = excluded.modified_at, \
             arrival = excluded.arrival",
        )
        .bind(datastore.backend_text())
        .bind(path)
        .bind(i64::try_from(*bytes).unwrap_or(i64::MAX))
        .bind(sha256.to_string())
        .bind(modified_at.map(microseconds))
        .execute(transaction.statement())
        .await?;
        sqlx::query("DELETE FROM uploads WHERE arrival <= (SELECT MAX(arrival) FROM uploads) - $1")
            .bind(MAX_UPLOADS)
            .execute(transaction.statement())
            .await
            .map(drop)
    }
}

struct RemoveUpload {
    datastore: DatastoreId,
    path: String,
}

#[async_trait]
impl Write for RemoveUpload {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM uploads WHERE datastore = $1 AND path = $2")
            .bind(self.datastore.backend_text())
            .bind(&self.path)
            .execute(transaction.statement())
            .await
            .map(drop)
    }
}

fn read_part(row: &SqliteRow) -> Result<PartRecord, StorageError> {
    let job: String = row.try_get("job")?;
    let datastore: &str = row.try_get("datastore")?;
    let path: String = row.try_get("path")?;
    let id = job.parse().map_err(|_| {
        StorageError::unreadable(format!("part file {path}"), DocumentError::JobId(job))
    })?;
    Ok(PartRecord { job: id, datastore: DatastoreId::from_backend(datastore), path })
}

fn read_upload(row: &SqliteRow) -> Result<UploadRecord, StorageError> {
    let datastore: &str = row.try_get("datastore")?;
    let path: String = row.try_get("path")?;
    let bytes: i64 = row.try_get("bytes")?;
    let sum: String = row.try_get("sha256")?;
    let modified_at: Option<i64> = row.try_get("modified_at")?;
    let sha256 = Sha256Sum::parse(&sum).ok_or_else(|| {
        let what = format!("upload {path}");
        StorageError::unreadable(what, DocumentError::Word { what: "SHA-256", word: sum })
    })?;
    Ok(UploadRecord {
        datastore: DatastoreId::from_backend(datastore),
        path,
        bytes: u64::try_from(bytes).unwrap_or_default(),
        sha256,
        modified_at: modified_at.map(|at| Timestamp::from_microsecond(at).unwrap_or_default()),
    })
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

    fn part(number: u128) -> PartRecord {
        PartRecord {
            job: JobId::new(Uuid::from_u128(number)),
            datastore: DatastoreId::from_backend("ds"),
            path: format!("iso/{number}.otter-part"),
        }
    }

    fn upload(path: &str, bytes: u64) -> UploadRecord {
        UploadRecord {
            datastore: DatastoreId::from_backend("ds"),
            path: path.to_owned(),
            bytes,
            sha256: Sha256Sum([7; 32]),
            modified_at: Some(Timestamp::from_second(9).unwrap()),
        }
    }

    #[tokio::test]
    async fn part_files_are_kept_until_they_are_removed() {
        let store = store().await;
        for number in [2, 1, 2] {
            store.insert_part(&part(number)).await.unwrap();
        }
        assert_eq!(store.parts().await.unwrap(), [part(1), part(2)]);
        store.remove_part(part(1).job).await.unwrap();
        store.remove_part(part(3).job).await.unwrap();
        assert_eq!(store.parts().await.unwrap(), [part(2)]);
    }

    #[tokio::test]
    async fn the_last_upload_to_a_path_is_kept() {
        let store = store().await;
        for bytes in [1, 2] {
            store.record_upload(&upload("a", bytes)).await.unwrap();
        }
        store.record_upload(&upload("b", 3)).await.unwrap();
        let datastore = DatastoreId::from_backend("ds");
        let read = async |path: &str| store.upload(&datastore, path).await.unwrap();
        assert_eq!(read("a").await, Some(upload("a", 2)));
        assert_eq!(read("b").await, Some(upload("b", 3)));
        assert_eq!(read("c").await, None);
        let other = DatastoreId::from_backend("other");
        assert_eq!(store.upload(&other, "a").await.unwrap(), None);
        store.remove_upload(&datastore, "a").await.unwrap();
        assert_eq!(read("a").await, None);
        assert_eq!(read("b").await, Some(upload("b", 3)));
    }
}
