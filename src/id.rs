//! Identifiers of sandboxes and containers: 64 lower-case hexadecimal digits, minted here.

use std::fmt::Write as _;

/// Random bytes in an id.
const ID_BYTES: usize = 32;

/// A new identifier, unguessable and unique.
///
/// # Errors
/// The kernel gave no random bytes.
pub fn mint() -> std::io::Result<String> {
    let mut bytes = [0u8; ID_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    let mut id = String::with_capacity(ID_BYTES * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        write!(id, "{byte:02x}").ok();
    }
    Ok(id)
}

/// The first twelve digits, for messages and logs.
#[must_use]
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Now, in nanoseconds since 1970, as the CRI counts time.
#[must_use]
pub fn now_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
