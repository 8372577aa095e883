//! What woke the shim: the number that epoll carries for each descriptor.

/// A watched descriptor. Ids of connections are never used twice, so a late event finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A child has ended.
    Signals,
    /// Somebody connects.
    Listener,
    /// A connection, by its id.
    Connection(u32),
    /// The container's output, by stream index.
    Output(usize),
    /// The container's stdin has room.
    Input,
    /// An attacher's input, by its connection.
    AttachStdin(u32),
    /// An attacher's output, by its connection and the stream index.
    Sink(u32, usize),
}

impl Token {
    /// As epoll carries it.
    #[must_use]
    pub(super) fn encode(self) -> u64 {
        let (kind, index, id): (u64, usize, u32) = match self {
            Self::Signals => (0, 0, 0),
            Self::Listener => (1, 0, 0),
            Self::Connection(id) => (2, 0, id),
            Self::Output(index) => (3, index, 0),
            Self::Input => (4, 0, 0),
            Self::AttachStdin(id) => (5, 0, id),
            Self::Sink(id, index) => (6, index, id),
        };
        kind << 40 | (index as u64 & 1) << 32 | u64::from(id)
    }

    /// The other way round.
    #[must_use]
    pub(super) fn decode(number: u64) -> Option<Self> {
        let id = u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0);
        let index = usize::from(number >> 32 & 1 == 1);
        Some(match number >> 40 {
            0 => Self::Signals,
            1 => Self::Listener,
            2 => Self::Connection(id),
            3 => Self::Output(index),
            4 => Self::Input,
            5 => Self::AttachStdin(id),
            6 => Self::Sink(id, index),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Token;

    #[test]
    fn tokens_survive_the_kernel() {
        let all = [
            Token::Signals,
            Token::Listener,
            Token::Connection(u32::MAX),
            Token::Output(0),
            Token::Output(1),
            Token::Input,
            Token::AttachStdin(7),
            Token::Sink(9, 1),
        ];
        for token in all {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX), None);
    }
}
