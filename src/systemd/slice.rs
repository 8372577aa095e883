//! Slices: a name such as `a-b.slice` says where it is, `a.slice/a-b.slice`. systemd.slice(5), systemd.unit(5).

use std::path::Path;

use crate::fault::{Fault, Result};

/// UNIT_NAME_MAX of systemd.
const NAME_BYTES_MAX: usize = 255;
/// How slices end.
const SUFFIX: &str = ".slice";
/// The root of all slices.
const ROOT: &str = "-.slice";

/// Whether a cgroup parent is a slice: then systemd makes the cgroups below it.
#[must_use]
pub fn is_slice(parent: &str) -> bool {
    name(parent).ends_with(SUFFIX)
}

/// The unit of a parent, which may be given with the slices above it.
#[must_use]
pub fn name(parent: &str) -> &str {
    let parent = parent.trim_end_matches('/');
    parent.rsplit_once('/').map_or(parent, |(_, last)| last)
}

/// The cgroups from the root to the slice `name`: `a-b.slice` is in `a.slice`.
#[must_use]
pub fn chain(name: &str) -> Vec<String> {
    let Some(stem) = name.strip_suffix(SUFFIX).filter(|_| name != ROOT) else {
        return Vec::new();
    };
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    ends.filter_map(|end| stem.get(..end))
        .map(|stem| format!("{stem}{SUFFIX}"))
        .collect()
}

/// Refuses a parent that systemd would not take, or that names another place than its slice has.
///
/// # Errors
/// What is wrong with it.
pub fn check(parent: &str) -> Result<()> {
    let name = name(parent);
    let refuse = |why: &str| Err(Fault::invalid(format!("cgroup parent {parent:?}: {why}")));
    if name.len() > NAME_BYTES_MAX {
        return refuse("the name of a unit has at most 255 bytes");
    }
    let Some(stem) = name.strip_suffix(SUFFIX) else {
        return refuse("it is not a slice (\"name.slice\")");
    };
    if name != ROOT {
        let plain = |c: char| c.is_ascii_alphanumeric() || ":_.\\-".contains(c);
        if !stem.chars().all(plain) {
            return refuse("the name of a slice has letters, digits and \":_.\\-\" only");
        }
        if stem.split('-').any(str::is_empty) {
            return refuse("each \"-\" in the name of a slice stands between two parts");
        }
    }
    let above: Vec<&str> = parent.split('/').filter(|part| !part.is_empty()).collect();
    let chain = chain(name);
    if above.len() > 1 && above != chain {
        let right = chain.iter().collect::<std::path::PathBuf>();
        return refuse(&format!(
            "the place of {name} is {}",
            Path::new("/").join(right).display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_where_slices_are() {
        assert_eq!(chain("a.slice"), ["a.slice"]);
        assert_eq!(chain("a-b-c.slice"), ["a.slice", "a-b.slice", "a-b-c.slice"]);
        assert!(chain("-.slice").is_empty() && chain("a").is_empty());
        assert_eq!(name("/a.slice/a-b.slice/"), "a-b.slice");
    }

    #[test]
    fn a_slice_is_told_from_a_path() {
        assert!(is_slice("kubepods.slice") && is_slice("/a.slice/a-b.slice"));
        assert!(!is_slice("/kubepods/pod1") && !is_slice("") && !is_slice("/a.slice/b"));
    }

    #[test]
    fn only_what_systemd_takes_is_taken() {
        for good in [
            "a.slice",
            "-.slice",
            "/a.slice/a-b.slice",
            "kubepods-pod1_2.slice",
            "a\\x2d.slice",
        ] {
            check(good).unwrap();
        }
        let long = format!("{}.slice", "a".repeat(250));
        for bad in [
            "a",
            ".slice",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "a b.slice",
            "a;b.slice",
            "é.slice",
            &long,
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        let fault = check("/x.slice/a-b.slice").unwrap_err();
        assert!(
            fault
                .message
                .ends_with("the place of a-b.slice is /a.slice/a-b.slice"),
            "{fault}"
        );
    }
}
