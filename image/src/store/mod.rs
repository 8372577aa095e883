//! What images and layers there are: in memory for reading, in the database for keeping.
//!
//! Order of every change: the tree durable and in place, then the database, then memory; backwards for removal.
//! So whatever is recorded is whole, and what a crash leaves is what nothing records.

mod database;
mod disk;
mod hold;
mod index;
mod reaper;
pub(crate) mod record;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use criquet_sys::step;

use self::database::{Change, Database, Records};
use self::disk::Disk;
pub(crate) use self::hold::Hold;
use self::index::Index;
use self::reaper::Reaper;
use self::record::{ImageRecord, LayerFile, LayerRecord, Name};
use crate::digest::Digest;
use crate::layer::{self, Expected};
use crate::reference::Reference;
use crate::{Error, ErrorKind, Image, Result, Usage};

#[derive(Debug)]
pub(crate) struct Store {
    disk: Arc<Disk>,
    database: Database,
    state: RwLock<State>,
    /// Held over a change of disk, database and memory together.
    changes: Mutex<()>,
    reaper: Reaper,
    pinned: Vec<Reference>,
}

#[derive(Debug, Default)]
struct State {
    index: Index,
    /// Images that are removed, and whose layers are leased or were before the last start.
    removed: HashMap<Digest, Arc<ImageRecord>>,
    layers: HashMap<Digest, Layer>,
    /// Leases by image.
    leases: HashMap<Digest, usize>,
}

#[derive(Debug)]
struct Layer {
    record: LayerRecord,
    /// Images, removed ones too, that have it.
    images: usize,
    /// Leases and pulls in progress.
    holds: usize,
}

impl Store {
    /// Opens or makes the store under `root`. Blocks.
    pub(crate) fn open(root: &Path, pinned: Vec<Reference>) -> Result<Arc<Self>> {
        let disk = Arc::new(Disk::open(root)?);
        let (database, is_new) = Database::open(&disk.database())?;
        let records = if is_new {
            rebuild(&disk, &database)?
        } else {
            database.load()?
        };
        let store = Arc::new(Self {
            reaper: Reaper::new(disk.clone()),
            disk,
            database,
            state: RwLock::default(),
            changes: Mutex::default(),
            pinned,
        });
        store.recover(records)?;
        store.reaper.start(&store);
        Ok(store)
    }

    /// Takes the records over whose trees are there, and forgets the others; removes trees that nothing records.
    fn recover(&self, records: Records) -> Result<()> {
        let mut state = State::default();
        let mut lost = Vec::new();
        for record in records.layers {
            if self.disk.has(&record.diff_id) {
                state.layers.insert(
                    record.diff_id.clone(),
                    Layer {
                        record,
                        images: 0,
                        holds: 0,
                    },
                );
            } else {
                lost.push(record.diff_id);
            }
        }
        let (whole, broken): (Vec<_>, Vec<_>) = records
            .images
            .into_iter()
            .partition(|r| r.layers.iter().all(|l| state.layers.contains_key(l)));
        for record in &broken {
            tracing::error!(image = %record.id, tags = ?record.tags, "layers of an image are gone, it must be pulled again");
            self.disk.drop_copy(&record.id);
        }
        let mut changes: Vec<_> = lost.iter().map(Change::NoLayer).collect();
        changes.extend(broken.iter().map(|record| Change::NoImage(&record.id)));
        for record in whole {
            state.count_image(&record.layers);
            let image = self.image(&record);
            state.index.insert(Arc::new(record), image);
        }
        for record in records.removed {
            state.count_image(&record.layers);
            state.removed.insert(record.id.clone(), Arc::new(record));
        }
        let unused = state.take_unused(None);
        changes.extend(unused.keys().map(Change::NoLayer));
        if !changes.is_empty() {
            self.database.commit(&changes)?;
        }
        for layer in self.disk.layers()? {
            if !state.layers.contains_key(&layer) {
                self.disk.discard(&layer)?;
            }
        }
        *self.write() = state;
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<Image>> {
        self.read().index.find(name).map(|(_, image)| image)
    }

    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        self.read().index.images()
    }

    /// Bytes and inodes as they were counted when the layers were unpacked.
    pub(crate) fn usage(&self) -> Usage {
        let state = self.read();
        let mut usage = Usage {
            bytes: state.index.bytes(),
            inodes: 0,
        };
        for layer in state.layers.values() {
            usage.bytes += layer.record.bytes;
            usage.inodes += layer.record.inodes;
        }
        usage
    }

    /// The open tree of a layer that somebody holds, and what its record says.
    pub(crate) fn tree(&self, layer: &Digest) -> Result<(OwnedFd, Vec<Vec<u8>>)> {
        let file = self.disk.layer_file(layer)?;
        Ok((
            self.disk.open_tree(layer)?,
            file.implied.into_iter().map(|name| name.0).collect(),
        ))
    }

    /// A file without a name, for as long as it is open.
    pub(crate) fn scratch(&self) -> Result<std::fs::File> {
        self.disk.scratch()
    }

    /// Unpacks a layer, makes it durable and records it. Blocks.
    pub(crate) fn add_layer(
        self: &Arc<Self>,
        expected: &Expected,
        next: impl FnMut() -> Result<Option<Bytes>>,
    ) -> Result<Hold> {
        let draft = self.disk.draft()?;
        let unpacked = layer::unpack(next, expected, draft.tree.as_fd())?;
        step::reached("pull.unpacked");
        let Usage { bytes, inodes } = unpacked.usage;
        let record = LayerRecord {
            diff_id: expected.diff_id.clone(),
            bytes,
            inodes: inodes + 2,
        };
        let implied = unpacked.implied.into_iter().map(Name).collect();
        draft.seal(&LayerFile {
            record: record.clone(),
            implied,
        })?;
        step::reached("pull.sealed");
        let _changing = self.changing();
        if let Some(hold) = self.hold(&expected.diff_id) {
            return Ok(hold);
        }
        draft.publish(&record.diff_id)?;
        step::reached("pull.published");
        self.database.commit(&[Change::Layer(&record)])?;
        step::reached("pull.recorded");
        let diff_id = record.diff_id.clone();
        self.write().layers.insert(
            diff_id.clone(),
            Layer {
                record,
                images: 0,
                holds: 1,
            },
        );
        Ok(Hold::taken(self.clone(), vec![diff_id], None))
    }

    /// Records an image whose layers the caller holds, or adds names to it. A tag that another image has moves.
    /// Blocks.
    pub(crate) fn add_image(&self, mut record: ImageRecord) -> Result<Arc<Image>> {
        let _changing = self.changing();
        let (moved, known, was_removed) = {
            let state = self.read();
            if let Some(missing) = record
                .layers
                .iter()
                .find(|layer| !state.layers.contains_key(layer))
            {
                let message = format!("layer {missing} of image {} is gone", record.id);
                return Err(Error::new(ErrorKind::Internal, message));
            }
            let known = state.index.get(&record.id).map(|(known, _)| known);
            (
                state.index.without_tags(&record),
                known,
                state.removed.contains_key(&record.id),
            )
        };
        if let Some(known) = &known {
            merge(&mut record.tags, &known.tags);
            merge(&mut record.digests, &known.digests);
            record.manifest = record.manifest.or_else(|| known.manifest.clone());
        }
        let mut changes = vec![Change::Image(&record)];
        changes.extend(moved.iter().map(Change::Image));
        if was_removed {
            changes.push(Change::NoRemoved(&record.id));
        }
        self.database.commit(&changes)?;
        step::reached("pull.named");
        let images: Vec<_> = moved
            .into_iter()
            .map(|record| (self.image(&record), record))
            .collect();
        let image = self.image(&record);
        let mut state = self.write();
        state.count_image(&record.layers);
        for gone in [known, state.removed.remove(&record.id)].into_iter().flatten() {
            state.uncount_image(&gone.layers);
        }
        for (image, record) in images {
            self.disk.keep_copy(&record);
            state.index.insert(Arc::new(record), image);
        }
        self.disk.drop_copy(&record.id);
        self.disk.keep_copy(&record);
        state.index.insert(Arc::new(record), image.clone());
        Ok(image)
    }

    /// Removes the image that `name` denotes, with all its names, and the layers that only it had. Blocks.
    pub(crate) fn remove_image(&self, name: &str) -> Result<()> {
        let _changing = self.changing();
        let mut state = self.write();
        let Some((record, image)) = state.index.find(name) else {
            return Ok(());
        };
        // Out of memory first, so that nobody takes a hold of what is about to go.
        state.index.remove(&record.id);
        let is_leased = state.leases.contains_key(&record.id);
        let unused = if is_leased {
            state.removed.insert(record.id.clone(), record.clone());
            HashMap::new()
        } else {
            state.uncount_image(&record.layers);
            state.take_unused(Some(&record.layers))
        };
        drop(state);
        let mut changes = vec![Change::NoImage(&record.id)];
        if is_leased {
            changes.push(Change::Removed(&record));
        }
        changes.extend(unused.keys().map(Change::NoLayer));
        if let Err(error) = self.database.commit(&changes) {
            let mut state = self.write();
            state.layers.extend(unused);
            if state.removed.remove(&record.id).is_none() {
                state.count_image(&record.layers);
            }
            state.index.insert(record, image);
            return Err(error);
        }
        if is_leased {
            self.disk.retire_copy(&record.id);
        } else {
            self.disk.drop_copy(&record.id);
        }
        self.discard(unused.keys());
        Ok(())
    }

    /// Removes those of `layers` that nobody needs any more, and the removed image that kept them. Blocks.
    fn collect(&self, layers: &[Digest], image: Option<&Digest>) -> Result<()> {
        let _changing = self.changing();
        let mut state = self.write();
        let ended = image
            .filter(|id| !state.leases.contains_key(id))
            .and_then(|id| state.removed.remove(id));
        if let Some(ended) = &ended {
            state.uncount_image(&ended.layers);
        }
        let mut candidates = layers.to_vec();
        candidates.extend(ended.iter().flat_map(|record| record.layers.clone()));
        let unused = state.take_unused(Some(&candidates));
        drop(state);
        let mut changes: Vec<_> = unused.keys().map(Change::NoLayer).collect();
        changes.extend(ended.iter().map(|record| Change::NoRemoved(&record.id)));
        if !changes.is_empty() {
            self.database.commit(&changes)?;
        }
        if let Some(record) = ended {
            self.disk.drop_copy(&record.id);
        }
        self.discard(unused.keys());
        Ok(())
    }

    /// Removes images that were removed before the last start and that nobody has leased since. Blocks.
    pub(crate) fn collect_removed(&self) -> Result<()> {
        let removed: Vec<Digest> = self.read().removed.keys().cloned().collect();
        removed.iter().try_for_each(|id| self.collect(&[], Some(id)))
    }

    fn discard<'a>(&self, layers: impl Iterator<Item = &'a Digest>) {
        for layer in layers {
            if let Err(error) = self.disk.discard(layer) {
                tracing::warn!(%layer, %error, "a layer stays until the next start");
            }
        }
        self.reaper.empty_trash();
    }

    /// What the rest of the daemon sees of a record.
    fn image(&self, record: &ImageRecord) -> Arc<Image> {
        let config = crate::manifest::ImageConfigFile::parse(record.config.as_bytes());
        let mut layers: Vec<_> = record.layers.iter().map(|layer| self.disk.tree(layer)).collect();
        if layers.is_empty() {
            layers.push(self.disk.empty_tree());
        }
        let names = || record.tags.iter().chain(&record.digests);
        Arc::new(Image {
            id: record.id.to_string(),
            repo_tags: record.tags.clone(),
            repo_digests: record.digests.clone(),
            size: record.size.max(1),
            pinned: self
                .pinned
                .iter()
                .any(|pinned| names().any(|name| *name == pinned.to_string())),
            config: config.map(|file| file.container_config()).unwrap_or_default(),
            layers,
            config_json: record.config.as_str().into(),
        })
    }
}

impl State {
    fn count_image(&mut self, layers: &[Digest]) {
        for layer in layers {
            if let Some(layer) = self.layers.get_mut(layer) {
                layer.images += 1;
            }
        }
    }

    fn uncount_image(&mut self, layers: &[Digest]) {
        for layer in layers {
            if let Some(layer) = self.layers.get_mut(layer) {
                layer.images = layer.images.saturating_sub(1);
            }
        }
    }

    /// Takes out the layers, all or of `candidates`, that nobody needs.
    fn take_unused(&mut self, candidates: Option<&[Digest]>) -> HashMap<Digest, Layer> {
        let unused = |digest: &Digest, layer: &mut Layer| {
            layer.images == 0 && layer.holds == 0 && candidates.is_none_or(|c| c.contains(digest))
        };
        self.layers.extract_if(unused).collect()
    }
}

/// Records of what lies on the disk, for a database that is new.
fn rebuild(disk: &Disk, database: &Database) -> Result<Records> {
    let files = disk
        .layers()?
        .into_iter()
        .filter_map(|layer| disk.layer_file(&layer).ok());
    let layers = files.map(|file| file.record).collect();
    let (images, removed) = disk.copies();
    let records = Records {
        images,
        removed,
        layers,
    };
    let mut changes: Vec<_> = records.layers.iter().map(Change::Layer).collect();
    changes.extend(records.images.iter().map(Change::Image));
    changes.extend(records.removed.iter().map(Change::Removed));
    database.commit(&changes)?;
    Ok(records)
}

fn merge(into: &mut Vec<String>, more: &[String]) {
    for name in more {
        if !into.contains(name) {
            into.push(name.clone());
        }
    }
    into.sort();
}
