//! What can go wrong with a request, in the daemon's own words. `cri::status` chooses the gRPC code.

use std::fmt;

/// The class of a fault: what the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// The request can never work as it is.
    Invalid,
    /// The named object does not exist.
    NotFound,
    /// The object exists already, and is another one.
    AlreadyExists,
    /// The object's state does not allow this now.
    FailedPrecondition,
    /// A peer (shim, registry, plugin) is not there; a retry may work.
    Unavailable,
    /// The time was up.
    DeadlineExceeded,
    /// A limit of ours or of the host.
    ResourceExhausted,
    /// The host or a registry refuses.
    PermissionDenied,
    /// criquet or this host cannot do this.
    Unimplemented,
    /// A defect or a broken host.
    Internal,
}

/// A failed request: its class, and one sentence that says what was done, on what, and why it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The class.
    pub kind: Kind,
    /// The sentence, lower case, without a full stop.
    pub message: String,
}

/// What requests answer.
pub type Result<T, E = Fault> = std::result::Result<T, E>;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(Kind::$kind, message)
        }
    )*};
}

impl Fault {
    /// A fault of this kind.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    kinds! {
        /// [`Kind::Invalid`].
        invalid => Invalid;
        /// [`Kind::NotFound`].
        not_found => NotFound;
        /// [`Kind::AlreadyExists`].
        already_exists => AlreadyExists;
        /// [`Kind::FailedPrecondition`].
        failed_precondition => FailedPrecondition;
        /// [`Kind::Unavailable`].
        unavailable => Unavailable;
        /// [`Kind::DeadlineExceeded`].
        deadline_exceeded => DeadlineExceeded;
        /// [`Kind::ResourceExhausted`].
        resource_exhausted => ResourceExhausted;
        /// [`Kind::PermissionDenied`].
        permission_denied => PermissionDenied;
        /// [`Kind::Unimplemented`].
        unimplemented => Unimplemented;
        /// [`Kind::Internal`].
        internal => Internal;
    }

    /// The same fault, told from further out: `doing: message`.
    #[must_use]
    pub fn while_doing(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// An error with all its causes in one line, `a: b: c`; a cause whose text its parent already ends with is left out.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let part = cause.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = cause.source();
    }
    text
}

/// Turns any error into a [`Fault`] with what was being done in front.
pub trait OrFault<T> {
    /// A fault of `kind`: `doing: error: its causes`.
    fn or_fault(self, kind: Kind, doing: impl FnOnce() -> String) -> Result<T>;
    /// [`Kind::Internal`].
    fn or_internal(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::error::Error> OrFault<T> for std::result::Result<T, E> {
    fn or_fault(self, kind: Kind, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Fault::new(kind, format!("{}: {}", doing(), chain(&error))))
    }
    fn or_internal(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.or_fault(Kind::Internal, doing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_whole_chain_once() {
        let error = std::fs::read("/nonexistent")
            .or_internal(|| "read the thing".into())
            .unwrap_err();
        assert_eq!(error.kind, Kind::Internal);
        assert_eq!(
            error.message,
            "read the thing: No such file or directory (os error 2)"
        );
        assert_eq!(
            error.while_doing("start").message,
            "start: read the thing: No such file or directory (os error 2)"
        );
    }
}
