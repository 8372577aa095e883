//! The registry client: OCI distribution specification v1.1, pull only.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::digest::Digest;
use crate::manifest::{Descriptor, ImageConfigFile, Manifest};
use crate::reference::Reference;
use crate::{Credentials, Error, ErrorKind, Result};

/// All registries: connections and TLS roots, shared by the pulls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    _inner: Arc<()>,
}

impl Registry {
    /// `hosts_dir` is read at every pull. `stall_timeout`: no byte of a blob for this long ends a try.
    ///
    /// # Errors
    /// `Internal` when TLS cannot be set up.
    pub fn new(hosts_dir: PathBuf, stall_timeout: Duration) -> Result<Self> {
        let _ = (hosts_dir, stall_timeout);
        Ok(Self { _inner: Arc::new(()) })
    }

    /// Fetches manifest and configuration of `reference` for this machine.
    ///
    /// # Errors
    /// `Denied`, `NotFound`, `Unavailable`, `Corrupt` or `Invalid`.
    pub async fn resolve(&self, reference: &Reference, credentials: Option<&Credentials>) -> Result<Remote> {
        let _ = credentials;
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("cannot resolve {reference} yet"),
        ))
    }
}

/// An image in a registry, as one pull sees it; tokens live and die with it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Remote {
    /// What was asked for.
    pub reference: Reference,
    /// Of the index or manifest that the reference denotes: what goes into `repo_digests`.
    pub digest: Digest,
    /// The manifest for this machine.
    pub manifest: Manifest,
    /// Its digest: `digest`, unless that is of an index.
    pub manifest_digest: Digest,
    /// Its text.
    pub manifest_bytes: Bytes,
    /// The configuration, with as many `diff_ids` as the manifest has layers.
    pub config: ImageConfigFile,
    /// Its text; verified.
    pub config_bytes: Bytes,
}

impl Remote {
    /// Streams a blob from byte `offset` on. The stream resumes by itself when a connection breaks, and ends with
    /// an error when there are not exactly `descriptor.size` bytes. The digest is the caller's to verify.
    ///
    /// # Errors
    /// As [`Registry::resolve`].
    pub async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream> {
        let _ = offset;
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("cannot fetch {} yet", descriptor.digest),
        ))
    }
}

/// The bytes of a blob.
#[derive(Debug)]
pub struct BlobStream {
    _inner: (),
}

impl BlobStream {
    /// The next piece; none at the end.
    ///
    /// # Errors
    /// `Unavailable` when the registry stalls or breaks off for good, `Corrupt` when it sends too much.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        Ok(None)
    }
}
