//! What belongs to no pod: found and freed; and all of ours, taken away.

use std::collections::HashSet;
use std::sync::Arc;

use super::{COLLECT_GRACE, Inner, all_well, blocking, locked};
use crate::native::lease::Store;
use crate::{Error, Result, chain, config, native};

impl Inner {
    pub(super) async fn collect(self: &Arc<Self>, live: HashSet<String>) -> Result<()> {
        let mut problems = Vec::new();
        let is_recent = |id: &str| {
            locked(&self.recent)
                .get(id)
                .is_some_and(|at| at.elapsed() < COLLECT_GRACE)
        };
        for id in self.records.ids()? {
            if !live.contains(&id)
                && !is_recent(&id)
                && let Err(error) = self.detach(&id).await
            {
                problems.push(error.0);
            }
        }
        // Never waits for a slow plugin, and so keeps no pod waiting for itself: there is a next time.
        let Ok(_alone) = self.working.try_write() else {
            tracing::debug!("networks are at work, garbage is collected another time");
            return all_well(problems);
        };
        let inner = self.clone();
        let freed = blocking(move || inner.free_native(&live)).await;
        problems.extend(freed.err().map(|error| error.0));
        if let Ok((config, Err(_))) = self.current() {
            let mut valid = Vec::new();
            for id in self.records.ids()? {
                // One that cannot be read may be of this network.
                if self
                    .records
                    .get(&id)
                    .is_ok_and(|record| record.is_none_or(|record| record.config.name != config.name))
                {
                    continue;
                }
                valid.push(id);
            }
            let collected = chain::collect(&self.options.bin_dirs, &config, &valid).await;
            problems.extend(collected.err().map(|error| error.0));
        }
        all_well(problems)
    }

    /// Frees leases and packet rules that no record stands for.
    fn free_native(&self, live: &HashSet<String>) -> Result<()> {
        let mut networks = HashSet::new();
        let mut recorded = HashSet::new();
        if let Ok((config, Ok(plan))) = self.current() {
            if plan.accept_forward {
                self.rules.accept(&plan.bridge.name, true)?;
            }
            networks.insert((plan.data_dir, config.name));
        }
        for id in self.records.ids()? {
            match self.records.get(&id) {
                Ok(record) => networks.extend(
                    record
                        .and_then(|record| record.native)
                        .map(|attached| (attached.data_dir, attached.network)),
                ),
                Err(error) => {
                    tracing::warn!(%error, "a pod's network record cannot be read; what it holds is kept")
                }
            }
            recorded.insert(id);
        }
        let mut addresses = HashSet::new();
        for (data_dir, network) in networks {
            let store = Store::new(&data_dir, &network);
            for (address, owner, _) in store.all()? {
                if recorded.contains(&owner) {
                    addresses.insert(address);
                } else if !live.contains(&owner) {
                    tracing::info!(%address, owner, network, "a lease of a pod that is gone is freed");
                    store.free(address)?;
                }
            }
        }
        self.rules.retain(&addresses)
    }

    pub(super) fn wipe(&self) -> Result<()> {
        let mut problems = Vec::new();
        let mut note = |result: Result<()>| problems.extend(result.err().map(|error| error.0));
        note(self.rules.wipe());
        if let Some(builtin) = &self.options.builtin {
            note(native::bridge::wipe(&builtin.bridge));
            note(Store::new(&self.options.lease_dir, config::BUILTIN_NAME).wipe());
        }
        if problems.is_empty()
            && let Err(error) = std::fs::remove_dir_all(&self.options.cache_dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(Error(format!(
                "remove folder {}: {error}",
                self.options.cache_dir.display()
            )));
        }
        all_well(problems)
    }
}
