//! Extended headers: `LENGTH KEY=VALUE\n`, again and again.

use super::{corrupt, shown};
use crate::Result;
use crate::limits::{TAR_NAME_MAX, TAR_XATTRS_MAX};

const XATTR: &[u8] = b"SCHILY.xattr.";

/// What an extended header says about the next entry.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pax {
    /// Reads the records of one header. A key that comes twice is refused: readers differ about which counts.
    pub(super) fn parse(records: &[u8]) -> Result<Self> {
        let mut pax = Self::default();
        let mut seen = std::collections::HashSet::new();
        let mut rest = records;
        while !rest.is_empty() {
            let (key, value, after) = record(rest)?;
            rest = after;
            if !seen.insert(key) {
                return Err(corrupt(format_args!(
                    "PAX key {} twice for one entry",
                    shown(key)
                )));
            }
            pax.take(key, value)?;
        }
        Ok(pax)
    }

    /// Global headers (as of `git archive`) may carry comments, but nothing that changes an entry: Go's reader
    /// ignores them, others do not.
    pub(super) fn check_global(records: &[u8]) -> Result<()> {
        let pax = Self::parse(records)?;
        let plain = pax.path.is_none()
            && pax.linkpath.is_none()
            && pax.size.is_none()
            && pax.uid.is_none()
            && pax.gid.is_none()
            && pax.xattrs.is_empty();
        if plain {
            Ok(())
        } else {
            Err(corrupt("global PAX header that changes entries"))
        }
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(name) = key.strip_prefix(XATTR) {
            if name.is_empty() || name.contains(&0) || name.len() > 255 {
                return Err(corrupt("malformed extended attribute name"));
            }
            if self.xattrs.len() >= TAR_XATTRS_MAX {
                return Err(corrupt(format_args!(
                    "more than {TAR_XATTRS_MAX} extended attributes"
                )));
            }
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        if key.starts_with(b"GNU.sparse.") {
            return Err(corrupt("sparse files are not supported"));
        }
        // An empty value takes an earlier one back, of which there is none here.
        if value.is_empty() {
            return Ok(());
        }
        match key {
            b"path" => self.path = Some(name(value)?),
            b"linkpath" => self.linkpath = Some(name(value)?),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {}
        }
        Ok(())
    }
}

/// Splits the first record off.
fn record(records: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let bad = || corrupt("malformed PAX record");
    let space = records.iter().take(10).position(|b| *b == b' ').ok_or_else(bad)?;
    let length = usize::try_from(number(&records[..space])?).map_err(|_| bad())?;
    if length <= space + 1 || length > records.len() {
        return Err(bad());
    }
    let (record, rest) = records.split_at(length);
    let body = record[space + 1..].strip_suffix(b"\n").ok_or_else(bad)?;
    let equals = body.iter().position(|b| *b == b'=').ok_or_else(bad)?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(bad());
    }
    Ok((key, value, rest))
}

pub(super) fn name(value: &[u8]) -> Result<Vec<u8>> {
    if value.contains(&0) {
        return Err(corrupt("name with a zero byte"));
    }
    if value.len() > TAR_NAME_MAX {
        return Err(corrupt(format_args!("name of more than {TAR_NAME_MAX} bytes")));
    }
    Ok(value.to_vec())
}

fn number(value: &[u8]) -> Result<u64> {
    let bad = || corrupt(format_args!("malformed PAX number {}", shown(value)));
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(bad)
}

/// Seconds with a fraction, maybe negative.
fn time(value: &[u8]) -> Result<(i64, u32)> {
    let bad = || corrupt(format_args!("malformed PAX time {}", shown(value)));
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let point = digits.iter().position(|b| *b == b'.').unwrap_or(digits.len());
    let seconds = i64::try_from(number(&digits[..point])?).map_err(|_| bad())?;
    let fraction = digits.get(point + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let nanos = (0..9).fold(0, |sum, at| {
        sum * 10 + u32::from(fraction.get(at).map_or(0, |d| d - b'0'))
    });
    Ok(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}
