//! The availability zone of this host.

use base::mutex::locked;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::credential::Discover;
use base::error::with_note;

/// The pause between two attempts to learn the zone.
const RETRY_EVERY: Duration = Duration::from_secs(60);

/// The availability zone of this host, as far as hopend knows it.
#[derive(Default)]
pub(super) struct HostZone {
    state: Mutex<HostZoneState>,
}

#[derive(Default)]
struct HostZoneState {
    /// The zone in the configuration. It overrules the one that AWS tells.
    configured: Option<Arc<str>>,
    /// The zone that AWS tells.
    learned: Option<Arc<str>>,
    /// The task that asks AWS.
    asking: Option<AbortOnDropHandle<()>>,
}

impl HostZone {
    /// The id of the zone. None until hopend has learned it.
    pub(super) fn id(&self) -> Option<Arc<str>> {
        let state = self.lock();
        state.configured.clone().or_else(|| state.learned.clone())
    }

    /// Sets the zone of the configuration.
    pub(super) fn configure(&self, configured: Option<&str>) {
        self.lock().configured = configured.map(Arc::from);
    }

    /// Asks `source` for the zone in the background, unless the zone is known or being asked for. Must be
    /// called within a tokio runtime.
    pub(super) fn learn(self: &Arc<Self>, source: &Arc<dyn Discover>) {
        let mut state = self.lock();
        let is_known = state.configured.is_some() || state.learned.is_some();
        if is_known || state.asking.is_some() {
            return;
        }
        let asking = tokio::spawn(ask(Arc::downgrade(self), Arc::clone(source)));
        state.asking = Some(AbortOnDropHandle::new(asking));
    }

    fn lock(&self) -> MutexGuard<'_, HostZoneState> {
        locked(&self.state)
    }
}

/// Asks until `source` answers. The first failure is a warning.
async fn ask(host: Weak<HostZone>, source: Arc<dyn Discover>) {
    let mut has_warned = false;
    loop {
        match source.zone().await {
            Ok(zone) => {
                tracing::info!(zone, "this host's availability zone");
                if let Some(host) = host.upgrade() {
                    host.lock().learned = Some(zone.into());
                }
                return;
            }
            Err(error) if !has_warned => {
                tracing::warn!(
                    "{}",
                    with_note(&error, "until then all nodes are equally near")
                );
                has_warned = true;
            }
            Err(error) => tracing::debug!("{error}"),
        }
        sleep(RETRY_EVERY).await;
    }
}
