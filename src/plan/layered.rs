//! Looking a file up in an image's layers as overlayfs would show them, without mounting anything.
//!
//! Layers are unpacked by the image store, owned by root in a private folder, and never written again, so a
//! path that was looked at cannot change before it is opened. Links are followed here, component by component,
//! in the merged view, and never by the kernel: none leads to the host.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::limits;

/// Marks a folder under which lower layers do not show (kernel documentation, overlayfs).
const OPAQUE: &str = "trusted.overlay.opaque";

/// What one name is in the merged view.
enum Found {
    /// A folder: those of the layers that it is merged of, topmost first.
    Folder(Vec<PathBuf>),
    /// Anything else.
    File(PathBuf, Metadata),
    Nothing,
}

/// The content of the regular file at `path` in the merged view of `layers` (topmost first); `None`: there is none.
///
/// # Errors
/// It is not a regular file, has more than `bytes_max` bytes, lies behind too many links, or cannot be read.
pub(super) fn read(layers: &[PathBuf], path: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let Some((real, found)) = resolve(layers, path)? else {
        return Ok(None);
    };
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // Opening must neither wait nor follow, whatever the file is.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(&real, flags, Mode::empty())?);
    let opened = file.metadata()?;
    if (opened.dev(), opened.ino()) != (found.dev(), found.ino()) {
        return Err(io::Error::other("the file was replaced while it was opened"));
    }
    let mut content = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {bytes_max} bytes"),
        ));
    }
    Ok(Some(content))
}

/// The real place of `path`, which may be anything but a link or folder.
fn resolve(layers: &[PathBuf], path: &str) -> io::Result<Option<(PathBuf, Metadata)>> {
    let mut folders: Vec<Vec<PathBuf>> = vec![layers.to_vec()];
    let mut names: VecDeque<OsString> = parts(Path::new(path));
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        if name == ".." {
            // Above the root is the root.
            if folders.len() > 1 {
                folders.pop();
            }
            continue;
        }
        let Some(folder) = folders.last() else {
            return Ok(None);
        };
        match look_up(folder, &name)? {
            Found::Nothing => return Ok(None),
            Found::Folder(inner) => folders.push(inner),
            Found::File(real, metadata) if metadata.file_type().is_symlink() => {
                links += 1;
                if links > limits::SYMLINKS_MAX {
                    return Err(io::Error::other("too many levels of symbolic links"));
                }
                let target = std::fs::read_link(&real)?;
                if target.is_absolute() {
                    folders.truncate(1);
                }
                let mut rest = parts(&target);
                rest.append(&mut names);
                names = rest;
            }
            Found::File(real, metadata) => return Ok(names.is_empty().then_some((real, metadata))),
        }
    }
    Err(io::Error::new(io::ErrorKind::IsADirectory, "a folder"))
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// One name in a merged folder: overlayfs's rules for whiteouts (a character device 0:0) and opaque folders.
fn look_up(folders: &[PathBuf], name: &OsString) -> io::Result<Found> {
    let mut merged = Vec::new();
    for folder in folders {
        let path = folder.join(name);
        let metadata = match std::fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let whiteout = metadata.file_type().is_char_device() && metadata.rdev() == 0;
        if metadata.is_dir() {
            let opaque = is_opaque(&path);
            merged.push(path);
            if opaque {
                break;
            }
        } else if !whiteout && merged.is_empty() {
            return Ok(Found::File(path, metadata));
        } else {
            break;
        }
    }
    Ok(if merged.is_empty() {
        Found::Nothing
    } else {
        Found::Folder(merged)
    })
}

fn is_opaque(folder: &Path) -> bool {
    let mut value = [0u8; 1];
    matches!(rustix::fs::lgetxattr(folder, OPAQUE, &mut value), Ok(1)) && value == *b"y"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn layers(dir: &Path) -> Vec<PathBuf> {
        ["top", "low"]
            .map(|name| {
                let layer = dir.join(name);
                std::fs::create_dir_all(layer.join("etc")).unwrap();
                layer
            })
            .to_vec()
    }

    fn text(layers: &[PathBuf], path: &str) -> Option<String> {
        read(layers, path, 100)
            .unwrap()
            .map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_topmost_layer_wins() {
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(dir.path());
        std::fs::write(layers[1].join("etc/passwd"), "low").unwrap();
        assert_eq!(text(&layers, "/etc/passwd").as_deref(), Some("low"));
        std::fs::write(layers[0].join("etc/passwd"), "top").unwrap();
        assert_eq!(text(&layers, "/etc/passwd").as_deref(), Some("top"));
        assert_eq!(text(&layers, "/etc/group"), None);
        assert_eq!(text(&layers, "/etc/passwd/x"), None);
    }

    #[test]
    fn links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(dir.path());
        std::fs::create_dir_all(layers[1].join("nix/store")).unwrap();
        std::fs::write(layers[1].join("nix/store/passwd"), "nix").unwrap();
        symlink("/nix/store/passwd", layers[0].join("etc/passwd")).unwrap();
        assert_eq!(
            text(&layers, "/etc/passwd").as_deref(),
            Some("nix"),
            "absolute, into a lower layer"
        );
        symlink(
            "../../../../../../../../nix/store/passwd",
            layers[0].join("etc/group"),
        )
        .unwrap();
        assert_eq!(
            text(&layers, "/etc/group").as_deref(),
            Some("nix"),
            "above the root is the root"
        );
        symlink("/proc/self/environ", layers[0].join("etc/host")).unwrap();
        assert_eq!(text(&layers, "/etc/host"), None, "not the host's");
        symlink("loop", layers[0].join("etc/loop")).unwrap();
        assert!(read(&layers, "/etc/loop", 100).is_err());
    }

    #[test]
    fn a_file_over_a_folder_hides_it() {
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(dir.path());
        std::fs::write(layers[1].join("etc/passwd"), "low").unwrap();
        std::fs::remove_dir(layers[0].join("etc")).unwrap();
        std::fs::write(layers[0].join("etc"), "").unwrap();
        assert_eq!(text(&layers, "/etc/passwd"), None);
    }

    #[test]
    fn whiteouts_and_opaque_folders_hide_what_is_below() {
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(dir.path());
        std::fs::write(layers[1].join("etc/passwd"), "low").unwrap();
        std::fs::write(layers[1].join("etc/group"), "low").unwrap();
        let whiteout = layers[0].join("etc/passwd");
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, &whiteout, kind, Mode::empty(), 0).unwrap();
        assert_eq!(text(&layers, "/etc/passwd"), None);
        assert_eq!(text(&layers, "/etc/group").as_deref(), Some("low"));
        let flags = rustix::fs::XattrFlags::empty();
        // Not every file system of a test machine takes trusted attributes.
        if rustix::fs::lsetxattr(layers[0].join("etc"), OPAQUE, b"y", flags).is_ok() {
            assert_eq!(text(&layers, "/etc/group"), None);
        }
    }

    #[test]
    fn odd_files_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(dir.path());
        std::fs::create_dir(layers[0].join("etc/passwd")).unwrap();
        assert!(read(&layers, "/etc/passwd", 100).is_err());
        std::fs::write(layers[0].join("etc/group"), "x".repeat(101)).unwrap();
        assert!(read(&layers, "/etc/group", 100).is_err());
        let socket = std::os::unix::net::UnixListener::bind(layers[0].join("etc/socket")).unwrap();
        assert!(read(&layers, "/etc/socket", 100).is_err());
        drop(socket);
    }
}
