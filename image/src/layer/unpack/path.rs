//! Names in a layer to components.

use super::bad;
use crate::Result;
use crate::limits::LAYER_DEPTH_MAX;

/// What a name is about. Parents are components from the root.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    Root,
    Inside(Vec<&'a [u8]>, &'a [u8]),
    /// `.wh.NAME`: lower layers' NAME is gone.
    Whiteout(Vec<&'a [u8]>, &'a [u8]),
    /// `.wh..wh..opq`: nothing of lower layers shows in the directory.
    Opaque(Vec<&'a [u8]>),
    /// AUFS' own files, `.wh..wh.plnk` and so on.
    Ignored,
}

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Absolute names are meant relative to the root; `..` is refused.
pub(super) fn target(name: &[u8]) -> Result<Target<'_>> {
    let mut parent = Vec::new();
    for component in name.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(bad(name, "has \"..\" in its name")),
            _ => parent.push(component),
        }
    }
    if parent.len() > LAYER_DEPTH_MAX {
        return Err(bad(
            name,
            &format!("is more than {LAYER_DEPTH_MAX} directories deep"),
        ));
    }
    let Some(last) = parent.pop() else {
        return Ok(Target::Root);
    };
    let is_meta = |component: &&[u8]| component.starts_with(WHITEOUT_META);
    if parent.iter().any(is_meta) || (is_meta(&last) && last != OPAQUE) {
        return Ok(Target::Ignored);
    }
    if parent.iter().any(|c| c.starts_with(WHITEOUT)) {
        return Err(bad(name, "is in a whiteout"));
    }
    if last == OPAQUE {
        return Ok(Target::Opaque(parent));
    }
    match last.strip_prefix(WHITEOUT) {
        None => Ok(Target::Inside(parent, last)),
        Some(b"" | b"." | b"..") => Err(bad(name, "is a whiteout of nothing")),
        Some(gone) => Ok(Target::Whiteout(parent, gone)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, want) in [
            ("", Some(Target::Root)),
            ("./", Some(Target::Root)),
            ("/", Some(Target::Root)),
            ("/etc/passwd", Some(Target::Inside(vec![b"etc"], b"passwd"))),
            (".//a/./b/", Some(Target::Inside(vec![b"a"], b"b"))),
            ("a/.wh.b", Some(Target::Whiteout(vec![b"a"], b"b"))),
            (".wh..wh..opq", Some(Target::Opaque(vec![]))),
            ("a/.wh..wh..opq", Some(Target::Opaque(vec![b"a"]))),
            (".wh..wh.plnk/1.2", Some(Target::Ignored)),
            (".wh..wh.aufs", Some(Target::Ignored)),
            ("..a", Some(Target::Inside(vec![], b"..a"))),
            ("..", None),
            ("a/../b", None),
            ("a/..", None),
            (".wh.", None),
            (".wh..", None),
            (".wh...", None),
            (".wh.a/b", None),
            (".wh.a/.wh..wh..opq", None),
            (&"a/".repeat(LAYER_DEPTH_MAX + 1), None),
        ] {
            assert_eq!(target(name.as_bytes()).ok(), want, "{name}");
        }
    }
}
