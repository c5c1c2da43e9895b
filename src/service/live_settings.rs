//! The settings that a reload of the configuration replaces while otter runs. Each use reads the
//! newest settings. What otter decided by earlier settings stays as it is, such as a granted lease.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::protection::Protection;
use crate::domain::answers::AnswerRules;
use crate::domain::pool::Pools;

/// The configuration of the protection of snapshots.
#[derive(Clone, Debug, Default)]
pub struct SnapshotSettings {
    /// The setting `snapshots.protected`: patterns of names and of paths.
    pub protected: Vec<String>,
    /// The setting `snapshots.runners_may_remove`.
    pub runners_may_remove: bool,
}

/// The settings that a reload replaces, all at once.
#[derive(Clone, Debug, Default)]
pub struct ReloadableSettings {
    pub pools: Pools,
    /// The rules that answer questions of all machines. The rules of pools take precedence.
    pub answers: AnswerRules,
    pub protection: Protection,
    pub snapshots: SnapshotSettings,
}

/// The settings that apply now and that a reload can replace. Clones share the settings.
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

    /// The settings that apply now. A caller uses the result for one decision only, because a
    /// reload may replace the settings after that.
    #[must_use]
    pub fn load(&self) -> Arc<ReloadableSettings> {
        self.0.settings.load_full()
    }

    /// Replaces all settings by new ones.
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
