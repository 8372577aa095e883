//! Layers on top of each other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use criquet_proto::shim::Rootfs;
use criquet_sys::errno;
use criquet_sys::mount::{self, Attributes, Propagation};
use criquet_sys::namespace::{self, Kind};
use criquet_sys::path::{self, Owned};

use super::spaces::Spaces;
use crate::child::Failure;

/// mount(2) takes one page of options.
const OPTIONS_BYTES_MAX: usize = 4095;

/// Nothing of the upper folder has to reach the disk: a container does not outlive a crash of its host. Without this
/// every container's end writes out the whole file system that the folder is on, its neighbours' data too.
const VOLATILE: &str = "volatile";
/// overlayfs leaves this in the work folder, and refuses it the next time.
const VOLATILE_MARK: &str = "work/incompat/volatile";

/// What goes above the layers.
struct Upper<'a> {
    upper: &'a str,
    work: &'a str,
}

/// The root of a container, detached.
pub(crate) fn rootfs(rootfs: &Rootfs, spaces: &Spaces<'_>, scratch: &Path) -> Result<OwnedFd, Failure> {
    if rootfs.upper.is_empty() {
        return read_only(&rootfs.lower, spaces.user, scratch);
    }
    let top = rootfs
        .lower
        .first()
        .ok_or_else(|| Failure::invalid("a root without a layer"))?;
    // The upper folder is what the container sees as `/`: it gets the mode and the owner of the image's.
    let image = path::owned(Path::new(top))?;
    let (uid, gid) = spaces.ids.host_owner(image.uid, image.gid);
    path::give_directory(
        Path::new(&rootfs.upper),
        Owned {
            uid,
            gid,
            mode: image.mode,
        },
    )?;
    // A create that failed later on may be tried again.
    match std::fs::remove_dir_all(Path::new(&rootfs.work).join(VOLATILE_MARK)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(criquet_sys::Error::new("rmdir", &rootfs.work, e).into());
        }
        _ => {}
    }
    let upper = Upper {
        upper: &rootfs.upper,
        work: &rootfs.work,
    };
    overlay(&rootfs.lower, Some(&upper), spaces.user, scratch)
}

/// Layers that nobody writes to, detached. `map` shows their owners through a user namespace.
pub(crate) fn read_only(
    lower: &[String],
    map: Option<BorrowedFd<'_>>,
    scratch: &Path,
) -> Result<OwnedFd, Failure> {
    let readonly = Attributes {
        readonly: true,
        ..Attributes::default()
    };
    let made = match lower {
        [] => return Err(Failure::invalid("no layers")),
        // overlayfs wants two.
        [one] => {
            let mount = mount::clone_path(Path::new(one), false)?;
            if let Some(map) = map {
                mount::map_ids(&mount, map, false)?;
            }
            mount::set_propagation(&mount, Propagation::Private, false)?;
            mount
        }
        _ => overlay(lower, None, map, scratch)?,
    };
    mount::forbid(&made, readonly, false)?;
    Ok(made)
}

fn overlay(
    lower: &[String],
    upper: Option<&Upper<'_>>,
    map: Option<BorrowedFd<'_>>,
    scratch: &Path,
) -> Result<OwnedFd, Failure> {
    let Some(map) = map else {
        return match by_parameters(lower, upper) {
            // Before Linux 6.5 there is no lowerdir+.
            Err(error) if error.is(errno::EINVAL) => in_private_mounts(|| by_string(lower, upper, scratch)),
            done => Ok(done?),
        };
    };
    // Each layer is covered by a view of itself with mapped owners, where nobody but us sees it; overlayfs keeps the
    // views when the namespace is gone.
    in_private_mounts(|| {
        for layer in lower {
            let view = mount::clone_path(Path::new(layer), false)?;
            mount::map_ids(&view, map, false)?;
            mount::attach_path(&view, Path::new(layer))?;
        }
        match by_parameters(lower, upper) {
            Err(error) if error.is(errno::EINVAL) => by_string(lower, upper, scratch),
            done => Ok(done?),
        }
    })
}

fn by_parameters(lower: &[String], upper: Option<&Upper<'_>>) -> criquet_sys::Result<OwnedFd> {
    let mut options: Vec<_> = lower
        .iter()
        .map(|layer| ("lowerdir+", Some(layer.as_str())))
        .collect();
    if let Some(Upper { upper, work }) = upper {
        options.extend([
            ("upperdir", Some(*upper)),
            ("workdir", Some(*work)),
            (VOLATILE, None),
        ]);
    }
    mount::new("overlay", &options, Attributes::default())
}

/// With mount(2), whose page of options holds more layers when they are named from a common folder.
fn by_string(lower: &[String], upper: Option<&Upper<'_>>, scratch: &Path) -> Result<OwnedFd, Failure> {
    let common = common_folder(lower);
    let mut options = String::from("lowerdir=");
    for (i, layer) in lower.iter().enumerate() {
        let relative = Path::new(layer).strip_prefix(&common).unwrap_or(Path::new(layer));
        options.push_str(if i == 0 { "" } else { ":" });
        options.push_str(&escape(&relative.to_string_lossy()));
    }
    if let Some(Upper { upper, work }) = upper {
        options.push_str(&format!(
            ",upperdir={},workdir={},{VOLATILE}",
            escape(upper),
            escape(work)
        ));
    }
    if options.len() > OPTIONS_BYTES_MAX {
        return Err(Failure::invalid(format!(
            "{} layers do not fit mount(2) of this kernel",
            lower.len()
        )));
    }
    criquet_sys::process::change_directory(&common)?;
    mount::by_string("overlay", scratch, &options)?;
    Ok(mount::clone_path(scratch, false)?)
}

fn common_folder(paths: &[String]) -> PathBuf {
    let mut common = paths
        .first()
        .map(|p| Path::new(p).parent().unwrap_or(Path::new("/")).to_path_buf())
        .unwrap_or_default();
    while !paths
        .iter()
        .all(|path| Path::new(path).parent().is_some_and(|p| p.starts_with(&common)))
        && common.pop()
    {}
    common
}

fn escape(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for c in path.chars() {
        if matches!(c, '\\' | ':' | ',') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Runs `work` in a copy of the mount namespace that nobody else sees and that goes away with it.
pub(crate) fn in_private_mounts<R>(work: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    let home = namespace::current(Kind::Mount)?;
    namespace::unshare(&[Kind::Mount])?;
    let done = mount::set_namespace_propagation(Propagation::Private)
        .map_err(Failure::from)
        .and_then(|()| work());
    namespace::join(home.as_fd(), Kind::Mount)?;
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_a_common_folder() {
        let of = |paths: &[&str]| common_folder(&paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["/a/b/1", "/a/b/2/fs"]), Path::new("/a/b"));
        assert_eq!(of(&["/a/bc/1", "/a/b/2"]), Path::new("/a"));
        assert_eq!(of(&["/a"]), Path::new("/"));
    }

    #[test]
    fn separators_are_escaped() {
        assert_eq!(escape("/a:b,c\\d"), "/a\\:b\\,c\\\\d");
    }
}
