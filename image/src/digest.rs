//! Content digests: the only names that content has in the store, so they are also path components.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::{Error, ErrorKind, Result};

/// The algorithms that the OCI image specification registers, and SHA-384, which Go's library also takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, what everybody uses.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }
}

/// `algorithm:hex`, where the algorithm is known and the hex is lower case and of the exact length: safe as a
/// file name once the colon is dealt with (CVE-2024-3727).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    text: String,
}

impl Digest {
    /// The SHA-256 of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(content);
        hasher.finish()
    }

    /// Which hash it is.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// `sha256:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part after the colon.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.name().len() + 1..]
    }

    /// A hasher of the same algorithm.
    #[must_use]
    pub fn hasher(&self) -> Hasher {
        Hasher::new(self.algorithm)
    }

    /// # Errors
    /// `Corrupt`, naming `what`, when `content` has another digest.
    pub fn verify(&self, content: &[u8], what: &str) -> Result<()> {
        let mut hasher = self.hasher();
        hasher.update(content);
        self.expect(&hasher.finish(), what)
    }

    /// # Errors
    /// `Corrupt`, naming `what`, when `found` is another digest.
    pub fn expect(&self, found: &Self, what: &str) -> Result<()> {
        if self == found {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("{what} has digest {found} instead of {self}"),
        ))
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            let shown: String = text.chars().take(Algorithm::Sha512.hex_len() + 8).collect();
            Error::new(ErrorKind::Invalid, format!("invalid digest {shown:?}: {why}"))
        };
        let (name, hex) = text.split_once(':').ok_or_else(|| invalid("no algorithm"))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha384" => Algorithm::Sha384,
            "sha512" => Algorithm::Sha512,
            _ => return Err(invalid("unknown algorithm")),
        };
        if hex.len() != algorithm.hex_len() {
            return Err(invalid("wrong length"));
        }
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid("not lower-case hexadecimal"));
        }
        Ok(Self {
            algorithm,
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Works out a [`Digest`] from content that comes in pieces.
#[derive(Debug, Clone)]
pub struct Hasher(State);

#[derive(Debug, Clone)]
enum State {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    /// An empty one.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha384 => State::Sha384(Sha384::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(piece),
            State::Sha384(state) => state.update(piece),
            State::Sha512(state) => state.update(piece),
        }
    }

    /// The digest of all pieces.
    #[must_use]
    pub fn finish(self) -> Digest {
        let (algorithm, sum) = match self.0 {
            State::Sha256(state) => (Algorithm::Sha256, state.finalize().to_vec()),
            State::Sha384(state) => (Algorithm::Sha384, state.finalize().to_vec()),
            State::Sha512(state) => (Algorithm::Sha512, state.finalize().to_vec()),
        };
        let mut text = String::with_capacity(algorithm.name().len() + 1 + algorithm.hex_len());
        text.push_str(algorithm.name());
        text.push(':');
        for byte in sum {
            for nibble in [byte >> 4, byte & 0xf] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        Digest { algorithm, text }
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new(Algorithm::Sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn of_known_content() {
        assert_eq!(Digest::of(b"").as_str(), EMPTY);
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest.hex().len(), 64);
        digest.verify(b"", "nothing").unwrap();
        let error = digest.verify(b"x", "the layer").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(
            error.to_string().starts_with("the layer has digest sha256:"),
            "{error}"
        );
    }

    #[test]
    fn other_algorithms() {
        for algorithm in [Algorithm::Sha384, Algorithm::Sha512] {
            let digest = Hasher::new(algorithm).finish();
            assert_eq!(digest.hex().len(), algorithm.hex_len());
            assert_eq!(digest.as_str().parse::<Digest>().unwrap(), digest);
        }
    }

    #[test]
    fn hostile_digests() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        let long = format!("{EMPTY}0");
        for text in [
            "",
            ":",
            "sha256",
            "sha256:",
            "sha256:../../x",
            "sha256:../../../../../../../../../../../../../../../../../../../../../../x",
            &EMPTY[..70],
            &long,
            &upper,
            &EMPTY.replace("sha256", "SHA256"),
            &EMPTY.replace("sha256", "sha512"),
            &EMPTY.replace("sha256", "md5"),
            &EMPTY.replace("e3b0", "e3\0b"),
            &EMPTY.replace("e3b0", "e3b/"),
            &format!(" {EMPTY}"),
            &format!("{EMPTY}\n"),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text:?}");
            assert!(
                serde_json::from_value::<Digest>(serde_json::json!(text)).is_err(),
                "{text:?}"
            );
        }
    }
}
