//! What can go wrong with an image, by kind, so that the CRI edge can choose a code.

/// The kinds that a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The name, digest or archive is malformed.
    Invalid,
    /// The registry does not have it, or the store does not.
    NotFound,
    /// The registry refused the credentials, or wanted some.
    Denied,
    /// The registry could not be reached or did not answer in time.
    Unavailable,
    /// Content that is not what its digest or size says, or is hostile.
    Corrupt,
    /// Anything else: disk, database.
    Internal,
}

/// An error of this crate: one sentence that names the object, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without a cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// An error with its cause, which is also told in the message.
    pub fn caused(
        kind: ErrorKind,
        message: impl std::fmt::Display,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self {
            kind,
            message: format!("{message}: {source}"),
            source: Some(Box::new(source)),
        }
    }

    /// What a caller can act on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
