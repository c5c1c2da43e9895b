//! What happens first when a lease that holds a machine ends: before its jobs are cancelled, and
//! before its machine is released.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::lease::Lease;

/// Does what must be done while the machine still is as the lease leaves it.
#[async_trait]
pub trait BeforeRelease: Send + Sync {
    /// Called with the lease, which is `releasing`. The release waits for it, so it ends within a
    /// few seconds, whatever happens. otter may call it again for the same lease.
    async fn before_release(&self, lease: &Arc<Lease>);
}
