//! The settings that a reload of the configuration replaces while otter runs. Each use reads the
//! newest ones; what was decided by earlier ones, such as a granted lease, stays as it is.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::protection::Protection;
use crate::domain::answers::AnswerRules;
use crate::domain::pool::Pools;

/// The configuration of the protection of snapshots.
#[derive(Clone, Debug, Default)]
pub struct SnapshotSettings {
    /// `snapshots.protected`: patterns of names and of paths.
    pub protected: Vec<String>,
    /// `snapshots.runners_may_remove`
    pub runners_may_remove: bool,
}

/// The settings that a reload replaces, all at once.
#[derive(Clone, Debug, Default)]
pub struct ReloadableSettings {
    pub pools: Pools,
    /// The answers to questions of all machines. The answers of pools take precedence.
    pub answers: AnswerRules,
    pub protection: Protection,
    pub snapshots: SnapshotSettings,
}

/// The reloadable settings that apply now. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct LiveSettings(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    settings: ArcSwap<ReloadableSettings>,
    /// Notifies of each replacement.
    replacements: watch::Sender<()>,
}

impl LiveSettings {
    #[must_use]
    pub fn new(settings: ReloadableSettings) -> Self {
        let settings = ArcSwap::from_pointee(settings);
        Self(Arc::new(Shared { settings, replacements: watch::Sender::new(()) }))
    }

    /// The settings that apply now. Keep the result for one decision only.
    #[must_use]
    pub fn load(&self) -> Arc<ReloadableSettings> {
        self.0.settings.load_full()
    }

    /// Replaces the settings.
    pub fn replace(&self, settings: ReloadableSettings) {
        self.0.settings.store(Arc::new(settings));
        self.0.replacements.send_replace(());
    }

    /// Notifies of every replacement of the settings.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.replacements.subscribe()
    }
}
