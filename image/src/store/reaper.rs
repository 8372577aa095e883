//! The thread that removes what nobody needs: deletion takes long, and leases end where nothing may block.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Store;
use super::disk::Disk;
use crate::digest::Digest;

#[derive(Debug)]
pub(super) struct Reaper {
    sender: Sender<Work>,
    receiver: Mutex<Option<Receiver<Work>>>,
    disk: Arc<Disk>,
}

#[derive(Debug)]
enum Work {
    Collect(Vec<Digest>, Option<Digest>),
    EmptyTrash,
}

impl Reaper {
    pub(super) fn new(disk: Arc<Disk>) -> Self {
        let (sender, receiver) = channel();
        Self {
            sender,
            receiver: Mutex::new(Some(receiver)),
            disk,
        }
    }

    /// Starts the thread, which ends with the store. Without it the next start removes what is left.
    pub(super) fn start(&self, store: &Arc<Store>) {
        let Some(receiver) = self
            .receiver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        else {
            return;
        };
        let (store, disk) = (Arc::downgrade(store), self.disk.clone());
        let run = move || run(&receiver, &store, &disk);
        if let Err(error) = std::thread::Builder::new().name("image-reaper".into()).spawn(run) {
            tracing::error!(%error, "cannot start the thread that removes images from disk");
        }
    }

    /// Looks whether `layers` are needed, and the removed `image` still leased.
    pub(super) fn collect(&self, layers: Vec<Digest>, image: Option<Digest>) {
        self.send(Work::Collect(layers, image));
    }

    pub(super) fn empty_trash(&self) {
        self.send(Work::EmptyTrash);
    }

    fn send(&self, work: Work) {
        if self.sender.send(work).is_err() {
            tracing::debug!("the thread that removes images is gone, the next start removes them");
        }
    }
}

fn run(receiver: &Receiver<Work>, store: &Weak<Store>, disk: &Disk) {
    disk.empty_trash();
    while let Ok(work) = receiver.recv() {
        match work {
            Work::EmptyTrash => disk.empty_trash(),
            Work::Collect(layers, image) => {
                let Some(store) = store.upgrade() else { return };
                if let Err(error) = store.collect(&layers, image.as_ref()) {
                    tracing::error!(%error, "cannot remove unused layers before the next start");
                }
            }
        }
    }
}
