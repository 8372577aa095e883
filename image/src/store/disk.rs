//! The directories of the store.
//!
//! ```text
//! images.redb          the records
//! images/DIGEST        a copy of each image's record, for when the database is lost
//! layers/DIGEST/fs     an unpacked layer, complete and durable
//! layers/DIGEST/layer  its record
//! tmp/N/fs             a layer in the making
//! trash/N              what is being removed
//! empty/               the layer of images that have none
//! ```
//! Everything is 0700 down to `fs`: set-id files of images are out of reach of the host's users
//! (CVE-2021-41103). What a crash leaves is in `tmp` and `trash`.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::record::{ImageRecord, LayerFile, decode, encode};
use crate::digest::Digest;
use crate::layer::removal;
use crate::{Error, ErrorKind, Result};

const PRIVATE: Mode = Mode::RWXU;
const RECORD: &str = "layer";
const TREE: &str = "fs";
/// How the copies of removed images' records end.
const RETIRED: &str = ".removed";

#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    layers: OwnedFd,
    images: OwnedFd,
    tmp: OwnedFd,
    trash: OwnedFd,
    next: AtomicU64,
}

/// A layer in the making; removed when dropped.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    disk: &'a Disk,
    name: String,
    directory: OwnedFd,
    pub(super) tree: OwnedFd,
}

impl Disk {
    /// Opens or makes the directories. What was in the making goes to the trash.
    pub(super) fn open(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root).map_err(|e| failed("creating", &root.display(), e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::openat(CWD, root, flags, Mode::empty())
            .map_err(|e| os_failed("opening", &root.display(), e))?;
        rustix::fs::fchmod(&top, PRIVATE)
            .map_err(|e| os_failed("setting the mode of", &root.display(), e))?;
        let part = |name: &str| directory(&top, name).map_err(|e| os_failed("preparing", &name, e));
        let root = root
            .canonicalize()
            .map_err(|e| failed("resolving", &root.display(), e))?;
        let (layers, images, trash) = (part("layers")?, part("images")?, part("trash")?);
        let empty = part("empty")?;
        rustix::fs::fchmod(&empty, Mode::from_raw_mode(0o755))
            .map_err(|e| os_failed("preparing", &"empty", e))?;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let aside = format!("tmp-{}", now.as_nanos());
        match rustix::fs::renameat(&top, "tmp", &trash, &aside) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(os_failed("clearing", &"tmp", error)),
        }
        let tmp = part("tmp")?;
        Ok(Self {
            root,
            layers,
            images,
            tmp,
            trash,
            next: AtomicU64::new(0),
        })
    }

    pub(super) fn database(&self) -> PathBuf {
        self.root.join("images.redb")
    }

    /// The host path of a layer's tree.
    pub(super) fn tree(&self, layer: &Digest) -> PathBuf {
        self.root.join("layers").join(file_name(layer)).join(TREE)
    }

    /// Of a tree that has nothing in it.
    pub(super) fn empty_tree(&self) -> PathBuf {
        self.root.join("empty")
    }

    /// The open tree of a layer.
    pub(super) fn open_tree(&self, layer: &Digest) -> Result<OwnedFd> {
        let open = || {
            let directory = removal::open_directory(self.layers.as_fd(), file_name(layer).as_bytes())?;
            removal::open_directory(directory.as_fd(), TREE.as_bytes())
        };
        open().map_err(|e| os_failed("opening layer", layer, e))
    }

    /// Whether the layer's tree and record are there.
    pub(super) fn has(&self, layer: &Digest) -> bool {
        self.open_tree(layer).is_ok() && self.layer_file(layer).is_ok()
    }

    pub(super) fn layer_file(&self, layer: &Digest) -> Result<LayerFile> {
        let path = self.root.join("layers").join(file_name(layer)).join(RECORD);
        let bytes = std::fs::read(&path).map_err(|e| failed("reading", &path.display(), e))?;
        decode(layer.as_str(), &bytes)
    }

    /// The names in `layers`, as digests; anything else goes to the trash.
    pub(super) fn layers(&self) -> Result<Vec<Digest>> {
        let names = removal::names(self.layers.as_fd()).map_err(|e| os_failed("listing", &"layers", e))?;
        let mut layers = Vec::new();
        for name in names {
            match std::str::from_utf8(&name)
                .ok()
                .and_then(|n| n.replacen('-', ":", 1).parse().ok())
            {
                Some(digest) => layers.push(digest),
                None => self.discard_name(&self.layers, &name)?,
            }
        }
        Ok(layers)
    }

    /// A fresh directory for a layer.
    pub(super) fn draft(&self) -> Result<Draft<'_>> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let make = || {
            let made = directory(&self.tmp, &name)?;
            let tree = directory(&made, TREE)?;
            Ok((made, tree))
        };
        match make() {
            Ok((directory, tree)) => Ok(Draft {
                disk: self,
                name,
                directory,
                tree,
            }),
            Err(error) => {
                removal::remove(self.tmp.as_fd(), name.as_bytes(), &mut |_| {}).unwrap_or_default();
                Err(os_failed("creating a layer directory", &name, error))
            }
        }
    }

    pub(super) fn scratch(&self) -> Result<std::fs::File> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.tmp, ".", flags, Mode::RUSR | Mode::WUSR);
        file.map(Into::into)
            .map_err(|e| os_failed("creating a file in", &"tmp", e))
    }

    /// Takes a layer out of the way; its place is free when this returns. Not there: success.
    pub(super) fn discard(&self, layer: &Digest) -> Result<()> {
        self.discard_name(&self.layers, file_name(layer).as_bytes())
    }

    fn discard_name(&self, from: &OwnedFd, name: &[u8]) -> Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let aside = format!("{}-{number}", std::process::id());
        match rustix::fs::renameat_with(from, name, &self.trash, &aside, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // Left by another process of this number.
            Err(Errno::EXIST) => self.discard_name(from, name),
            Err(error) => Err(os_failed("discarding", &name.escape_ascii(), error)),
        }
    }

    /// Removes what is in the trash: may take long.
    pub(super) fn empty_trash(&self) {
        let names = removal::names(self.trash.as_fd()).unwrap_or_default();
        for name in names {
            if let Err(error) = removal::remove(self.trash.as_fd(), &name, &mut |_| {}) {
                tracing::warn!(name = %name.escape_ascii(), %error, "cannot remove a discarded layer, trying again later");
            }
        }
    }

    /// Keeps a copy of an image's record beside the database, as well as it goes.
    pub(super) fn keep_copy(&self, record: &ImageRecord) {
        let name = file_name(&record.id);
        let write = || -> Result<()> {
            let bytes = encode(record)?;
            let fresh = format!("{name}.new");
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&self.images, &fresh, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|e| os_failed("creating", &fresh, e))?;
            let mut file = std::fs::File::from(file);
            file.write_all(&bytes).map_err(|e| failed("writing", &fresh, e))?;
            rustix::fs::renameat(&self.images, &fresh, &self.images, &name)
                .map_err(|e| os_failed("renaming", &fresh, e))
        };
        if let Err(error) = write() {
            tracing::warn!(image = %record.id, %error, "cannot keep a copy of the image record");
        }
    }

    pub(super) fn drop_copy(&self, image: &Digest) {
        for name in [file_name(image), file_name(image) + RETIRED] {
            match rustix::fs::unlinkat(&self.images, name, rustix::fs::AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => tracing::warn!(%image, %error, "cannot remove the copy of an image record"),
            }
        }
    }

    /// Marks the copy of an image that is removed while containers use its layers.
    pub(super) fn retire_copy(&self, image: &Digest) {
        let name = file_name(image);
        let retired = format!("{name}{RETIRED}");
        if let Err(error) = rustix::fs::renameat(&self.images, &name, &self.images, &retired) {
            tracing::warn!(%image, %error, "cannot keep the copy of an image record");
        }
    }

    /// The copies that can be read: of the images, and of those that are removed but used.
    pub(super) fn copies(&self) -> (Vec<ImageRecord>, Vec<ImageRecord>) {
        let names = removal::names(self.images.as_fd()).unwrap_or_default();
        let (retired, names): (Vec<_>, Vec<_>) = names
            .into_iter()
            .partition(|name| name.ends_with(RETIRED.as_bytes()));
        (self.read_copies(names), self.read_copies(retired))
    }

    fn read_copies(&self, names: Vec<Vec<u8>>) -> Vec<ImageRecord> {
        let read = |name: Vec<u8>| {
            let name = String::from_utf8(name).ok()?;
            let bytes = std::fs::read(self.root.join("images").join(&name)).ok()?;
            let record: ImageRecord = decode(&name, &bytes).ok()?;
            record
                .id
                .verify(record.config.as_bytes(), "image configuration")
                .ok()?;
            Some(record)
        };
        names
            .into_iter()
            .filter(|name| !name.ends_with(b".new"))
            .filter_map(read)
            .collect()
    }
}

impl Draft<'_> {
    /// Makes the layer durable, which may take as long as the disk is slow.
    pub(super) fn seal(&self, file: &LayerFile) -> Result<()> {
        let fail = |e| os_failed("writing layer", &file.record.diff_id, e);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let record =
            rustix::fs::openat(&self.directory, RECORD, flags, Mode::RUSR | Mode::WUSR).map_err(fail)?;
        std::fs::File::from(record)
            .write_all(&encode(file)?)
            .map_err(|e| failed("writing the record of", &file.record.diff_id, e))?;
        rustix::fs::syncfs(&self.directory).map_err(fail)
    }

    /// Makes a sealed layer visible. A directory of the same name, which has no record, is replaced.
    pub(super) fn publish(self, layer: &Digest) -> Result<()> {
        let fail = |e| os_failed("publishing layer", layer, e);
        self.disk.discard(layer)?;
        let name = file_name(layer);
        rustix::fs::renameat_with(
            &self.disk.tmp,
            &self.name,
            &self.disk.layers,
            &name,
            RenameFlags::NOREPLACE,
        )
        .map_err(fail)?;
        rustix::fs::fsync(&self.disk.layers).map_err(fail)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if let Err(error) = removal::remove(self.disk.tmp.as_fd(), self.name.as_bytes(), &mut |_| {}) {
            tracing::warn!(name = self.name, %error, "cannot remove an unfinished layer before the next start");
        }
    }
}

/// Opens or makes the directory `name`, 0700 whatever the umask is.
fn directory(parent: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, PRIVATE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let directory = removal::open_directory(parent.as_fd(), name.as_bytes())?;
    rustix::fs::fchmod(&directory, PRIVATE)?;
    Ok(directory)
}

/// A colon separates lower layers in overlayfs' options.
fn file_name(digest: &Digest) -> String {
    digest.as_str().replace(':', "-")
}

fn failed(what: &str, object: &dyn std::fmt::Display, error: std::io::Error) -> Error {
    Error::caused(
        ErrorKind::Internal,
        format_args!("image store: {what} {object}"),
        error,
    )
}

fn os_failed(what: &str, object: &dyn std::fmt::Display, error: Errno) -> Error {
    failed(what, object, error.into())
}
