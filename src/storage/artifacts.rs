//! The storage of what otter knows about artifacts. The bytes of an artifact are in a file of their
//! own, which `service::artifacts` keeps.

use async_trait::async_trait;

use super::StorageError;
use crate::domain::artifact::{Artifact, ArtifactName};
use crate::domain::audit::AuditRecord;
use crate::domain::ids::{ArtifactId, LeaseId, MachineId};
use crate::telemetry::audit as audit_log;

/// Selects artifacts. An artifact must match every field. A field that is `None` matches every
/// artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArtifactFilter {
    pub lease: Option<LeaseId>,
    pub reference: Option<String>,
    pub machine: Option<MachineId>,
    /// The name of the caller that requested the lease of the artifact.
    pub requested_by: Option<String>,
}

/// The order of a list of artifacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactOrder {
    NewestFirst,
    OldestFirst,
}

/// The rows of the artifacts. The rules of [`Storage`](super::Storage) for reads, writes and audit
/// records apply here too.
#[async_trait]
pub trait ArtifactStorage: Send + Sync {
    /// Commits a new artifact and its audit record.
    ///
    /// # Errors
    /// `Conflict` if the lease has an artifact with this name.
    async fn insert_artifact(
        &self,
        artifact: &Artifact,
        audit: AuditRecord,
    ) -> Result<(), StorageError> {
        self.commit_new_artifact(artifact, audit.clone()).await?;
        audit_log::log(&audit);
        Ok(())
    }

    /// Deletes an artifact, and commits the audit record. Returns false, and commits nothing, if
    /// there is no such artifact.
    async fn delete_artifact(
        &self,
        id: ArtifactId,
        audit: AuditRecord,
    ) -> Result<bool, StorageError> {
        let deleted = self.commit_deleted_artifact(id, audit.clone()).await?;
        if deleted {
            audit_log::log(&audit);
        }
        Ok(deleted)
    }

    /// Does the write of [`ArtifactStorage::insert_artifact`], but logs nothing.
    async fn commit_new_artifact(
        &self,
        artifact: &Artifact,
        audit: AuditRecord,
    ) -> Result<(), StorageError>;

    /// Does the write of [`ArtifactStorage::delete_artifact`], but logs nothing.
    async fn commit_deleted_artifact(
        &self,
        id: ArtifactId,
        audit: AuditRecord,
    ) -> Result<bool, StorageError>;

    /// Reads one artifact. `None` if there is no artifact with this id.
    async fn artifact(&self, id: ArtifactId) -> Result<Option<Artifact>, StorageError>;

    /// Reads the artifact of a lease that has this name. `None` if there is none.
    async fn artifact_named(
        &self,
        lease: LeaseId,
        name: &ArtifactName,
    ) -> Result<Option<Artifact>, StorageError>;

    /// Reads the artifacts that match the filter, sorted by their ids.
    ///
    /// # Parameters
    /// - `after`: only artifacts that follow the one with this id are read.
    /// - `limit`: the maximum number of artifacts.
    async fn artifacts(
        &self,
        filter: &ArtifactFilter,
        order: ArtifactOrder,
        after: Option<ArtifactId>,
        limit: u32,
    ) -> Result<Vec<Artifact>, StorageError>;
}
