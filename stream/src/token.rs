//! The table of tokens: what a URL stands for until somebody comes with it.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::Session;

/// URLs given out and neither used nor expired. A kubelet asks for one and uses it at once; a thousand that
/// wait are a client gone wrong, and each holds a command line.
pub(crate) const TOKENS_MAX: usize = 1024;

/// 128 random bits: nobody guesses one in the minute that it lives.
const TOKEN_BYTES: usize = 16;

/// Single-use tokens with an age limit.
#[derive(Debug)]
pub(crate) struct Tokens {
    lifetime: Duration,
    waiting: HashMap<String, (Session, Instant)>,
}

impl Tokens {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            waiting: HashMap::new(),
        }
    }

    /// A new token for `session`. Fails when too many wait or the kernel gives no random bytes.
    pub(crate) fn insert(&mut self, session: Session) -> io::Result<String> {
        let now = Instant::now();
        if self.waiting.len() >= TOKENS_MAX {
            self.waiting.retain(|_, (_, expiry)| *expiry > now);
            if self.waiting.len() >= TOKENS_MAX {
                let why = format!("{TOKENS_MAX} streaming urls already wait for their client");
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
            }
        }
        let mut raw = [0; TOKEN_BYTES];
        getrandom::fill(&mut raw).map_err(|error| io::Error::other(format!("draw a token: {error}")))?;
        let token = URL_SAFE_NO_PAD.encode(raw);
        self.waiting.insert(token.clone(), (session, now + self.lifetime));
        Ok(token)
    }

    /// Takes `token` out of the table; none when it is wrong, used or too old.
    pub(crate) fn take(&mut self, token: &str) -> Option<Session> {
        let (session, expiry) = self.waiting.remove(token)?;
        (Instant::now() < expiry).then_some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::PortForward {
            sandbox: "s".into(),
            ports: vec![],
        }
    }

    #[test]
    fn a_token_is_good_once() {
        let mut tokens = Tokens::new(Duration::from_secs(60));
        let token = tokens.insert(session()).unwrap();
        assert_eq!(token.len(), 22);
        assert!(tokens.take("x").is_none());
        assert!(tokens.take(&token).is_some());
        assert!(tokens.take(&token).is_none());
    }

    #[test]
    fn an_old_token_is_worth_nothing_and_makes_room() {
        let mut tokens = Tokens::new(Duration::ZERO);
        let first = tokens.insert(session()).unwrap();
        assert!(tokens.take(&first).is_none());
        for _ in 0..TOKENS_MAX + 10 {
            tokens.insert(session()).unwrap();
        }
    }

    #[test]
    fn the_table_is_bounded() {
        let mut tokens = Tokens::new(Duration::from_secs(60));
        for _ in 0..TOKENS_MAX {
            tokens.insert(session()).unwrap();
        }
        let error = tokens.insert(session()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
    }
}
