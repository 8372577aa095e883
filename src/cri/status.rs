//! The one place where a [`Fault`] becomes a gRPC status.

use tonic::{Code, Status};

use crate::fault::{Fault, Kind};

/// A status message longer than this is cut: it travels in HTTP/2 headers, and peers accept 8 KiB of them.
const MESSAGE_BYTES_MAX: usize = 4096;

/// The gRPC code of a kind. The kubelet tells `NotFound`, `Unimplemented`, `DeadlineExceeded` and
/// `ResourceExhausted` from the rest.
#[must_use]
pub fn code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::Unavailable => Code::Unavailable,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Internal => Code::Internal,
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let mut message = fault.message;
        if message.len() > MESSAGE_BYTES_MAX {
            let end = (0..=MESSAGE_BYTES_MAX)
                .rev()
                .find(|&at| message.is_char_boundary(at))
                .unwrap_or(0);
            message.truncate(end);
            message.push('…');
        }
        Self::new(code(fault.kind), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_long_messages_between_characters() {
        let status = Status::from(Fault::not_found("é".repeat(5000)));
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().len() < MESSAGE_BYTES_MAX + 4 && status.message().ends_with('…'));
    }
}
