//! What is written down about an image and about a layer.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::{Error, ErrorKind, Result};

/// An image. The blobs of layers are not kept: what they unpacked to is, and their digests in the manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Digest of the config.
    pub(crate) id: Digest,
    /// The config as it came.
    pub(crate) config: String,
    /// The manifest as it came; none in docker's archives.
    #[serde(default)]
    pub(crate) manifest: Option<String>,
    /// Directories in the store, topmost first, each once.
    pub(crate) layers: Vec<Digest>,
    /// Bytes of the packed layers and the config.
    pub(crate) size: u64,
    /// `docker.io/library/busybox:latest`.
    pub(crate) tags: Vec<String>,
    /// `docker.io/library/busybox@sha256:…`.
    pub(crate) digests: Vec<String>,
}

/// A layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Digest of its tar archive, by which its directory is named.
    pub(crate) diff_id: Digest,
    /// Bytes that it takes on disk.
    pub(crate) bytes: u64,
    /// Inodes.
    pub(crate) inodes: u64,
}

/// What lies beside a layer's tree: its record, and what is needed only when an image is put together.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayerFile {
    #[serde(flatten)]
    pub(crate) record: LayerRecord,
    /// Directories that the archive did not name itself.
    pub(crate) implied: Vec<Name>,
}

/// A path, whose bytes need not be UTF-8: each is written as the character of that number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Name(pub(crate) Vec<u8>);

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into_iter().map(char::from).collect()
    }
}

impl TryFrom<String> for Name {
    type Error = std::char::TryFromCharError;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        text.chars()
            .map(u8::try_from)
            .collect::<std::result::Result<_, _>>()
            .map(Self)
    }
}

pub(super) fn encode(record: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|e| Error::caused(ErrorKind::Internal, "writing a record", e))
}

pub(super) fn decode<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::caused(
            ErrorKind::Internal,
            format_args!("reading the record of {what}"),
            e,
        )
    })
}
