//! Checks of single fields, shared by all requests. Each error names the field.

use std::collections::BTreeMap;

use crate::fault::{Fault, Result};
use crate::limits;

/// Text of any kind: bounded, and without NUL, which would end it early in the kernel.
pub(crate) fn text<'a>(field: &str, value: &'a str, bytes_max: usize) -> Result<&'a str> {
    if value.len() > bytes_max {
        return Err(Fault::invalid(format!(
            "{field} has {} bytes, the limit is {bytes_max}",
            value.len()
        )));
    }
    if value.contains('\0') {
        return Err(Fault::invalid(format!("{field} contains a NUL byte")));
    }
    Ok(value)
}

/// A single line: text without control characters.
pub(crate) fn line<'a>(field: &str, value: &'a str, bytes_max: usize) -> Result<&'a str> {
    text(field, value, bytes_max)?;
    if value.chars().any(char::is_control) {
        return Err(Fault::invalid(format!(
            "{field} {value:?} contains a control character"
        )));
    }
    Ok(value)
}

/// A name: it becomes part of CNI arguments (`K=V;K=V`), messages and keys, so neither separators nor blanks.
pub(crate) fn name<'a>(field: &str, value: &'a str) -> Result<&'a str> {
    line(field, value, limits::NAME_BYTES_MAX)?;
    if let Some(bad) = value
        .chars()
        .find(|c| c.is_whitespace() || ";=,/\\\"'".contains(*c))
    {
        return Err(Fault::invalid(format!("{field} {value:?} contains {bad:?}")));
    }
    Ok(value)
}

/// As [`name`], and not empty.
pub(crate) fn required_name<'a>(field: &str, value: &'a str) -> Result<&'a str> {
    if value.is_empty() {
        return Err(Fault::invalid(format!("{field} is empty")));
    }
    name(field, value)
}

/// An absolute path without `..`.
pub(crate) fn absolute<'a>(field: &str, value: &'a str) -> Result<&'a str> {
    path(field, value)?;
    if !value.starts_with('/') {
        return Err(Fault::invalid(format!(
            "{field} {value:?} is not an absolute path"
        )));
    }
    Ok(value)
}

/// A relative path without `..`; may be empty.
pub(crate) fn relative<'a>(field: &str, value: &'a str) -> Result<&'a str> {
    path(field, value)?;
    if value.starts_with('/') {
        return Err(Fault::invalid(format!(
            "{field} {value:?} is not a relative path"
        )));
    }
    Ok(value)
}

/// A path without `..`, of a length that the kernel takes.
fn path<'a>(field: &str, value: &'a str) -> Result<&'a str> {
    text(field, value, limits::PATH_BYTES_MAX)?;
    if value.split('/').any(|part| part == "..") {
        return Err(Fault::invalid(format!("{field} {value:?} contains \"..\"")));
    }
    Ok(value)
}

/// A user or group id: 0 to 2³²-2. 2³²-1 is the kernel's "no change" (chown(2), setresuid(2)).
pub(crate) fn id(field: &str, value: i64) -> Result<u32> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Fault::invalid(format!(
            "{field} {value} is not an id from 0 to {}",
            u32::MAX - 1
        ))),
    }
}

/// Supplementary groups.
pub(crate) fn groups(field: &str, values: &[i64]) -> Result<Vec<u32>> {
    if values.len() > limits::GROUPS_MAX {
        return Err(Fault::invalid(format!(
            "{field} has {} groups, the limit is {}",
            values.len(),
            limits::GROUPS_MAX
        )));
    }
    values.iter().map(|&value| id(field, value)).collect()
}

/// Labels or annotations: returned unaltered, so any text, but not any amount.
pub(crate) fn metadata<'a>(
    field: &str,
    entries: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<BTreeMap<String, String>> {
    let mut bytes = 0usize;
    let mut out = BTreeMap::new();
    for (key, value) in entries {
        bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
        if bytes > limits::METADATA_BYTES_MAX {
            return Err(Fault::invalid(format!(
                "{field} exceed {} bytes",
                limits::METADATA_BYTES_MAX
            )));
        }
        out.insert(key.clone(), value.clone());
    }
    Ok(out)
}

/// The value of a protobuf enum, or an error that names the field.
pub(crate) fn choice<T: TryFrom<i32>>(field: &str, value: i32) -> Result<T> {
    T::try_from(value).map_err(|_| Fault::invalid(format!("{field} has the unknown value {value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_never_wrap() {
        for bad in [-1, i64::MIN, 4_294_967_295, 4_294_967_296, i64::MAX] {
            assert!(id("uid", bad).is_err(), "{bad}");
        }
        assert_eq!(id("uid", 4_294_967_294).unwrap(), 4_294_967_294);
    }

    #[test]
    fn paths() {
        assert!(absolute("p", "/a/../b").is_err());
        assert!(absolute("p", "a").is_err());
        assert!(absolute("p", "/a\0b").is_err());
        assert!(absolute("p", "/a/..b/c").is_ok());
        assert!(relative("p", "/a").is_err());
        assert!(relative("p", "../a").is_err());
        assert!(relative("p", "a/0.log").is_ok());
    }

    #[test]
    fn names_hold_no_separators() {
        for bad in ["a;b", "a=b", "a/b", "a b", "a\nb", "a\0"] {
            assert!(required_name("name", bad).is_err(), "{bad:?}");
        }
        assert!(required_name("name", "").is_err());
        assert!(required_name("name", "web-0.x_Y").is_ok());
    }
}
