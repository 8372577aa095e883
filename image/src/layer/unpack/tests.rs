//! Layers in directories.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use bytes::Bytes;

use crate::digest::Digest;
use crate::layer::tar::{Entry, Kind};
use crate::layer::{Expected, Unpacked, unpack};
use crate::limits::LAYER_DEPTH_MAX;
use crate::tests::fixture::{directory, entry, file, gzip, link, tar, zstd};
use crate::{ErrorKind, Result};

type Item = (Entry, Vec<u8>);

fn unpacked(root: &Path, packed: Vec<u8>, archive: &[u8]) -> Result<Unpacked> {
    let expected = Expected {
        digest: Some(Digest::of(&packed)),
        size: packed.len() as u64,
        diff_id: Digest::of(archive),
    };
    let mut chunks = packed
        .chunks(1000)
        .map(Bytes::copy_from_slice)
        .collect::<Vec<_>>()
        .into_iter();
    let directory = std::fs::File::open(root).unwrap();
    unpack(|| Ok(chunks.next()), &expected, directory.as_fd())
}

fn apply(root: &Path, items: &[Item]) -> Result<Unpacked> {
    let archive = tar(items);
    unpacked(root, archive.clone(), &archive)
}

fn stat(path: impl AsRef<Path>) -> std::fs::Metadata {
    std::fs::symlink_metadata(path).unwrap()
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(length);
    Some(value)
}

fn is_whiteout(path: &Path) -> bool {
    let stat = stat(path);
    stat.file_type().is_char_device() && stat.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    xattr(path, "trusted.overlay.opaque").as_deref() == Some(b"y")
}

/// A capability set as the kernel takes it: version 2, effective, CAP_NET_RAW.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn every_kind() -> Vec<Item> {
    let owned = |kind, name: &str| Entry {
        mode: 0o6754,
        uid: 11,
        gid: 12,
        mtime: (77, 5),
        ..entry(kind, name)
    };
    let xattrs = vec![
        (b"security.capability".to_vec(), CAPABILITY.to_vec()),
        (b"user.mine".to_vec(), b"yes".to_vec()),
        (b"user.overlay.opaque".to_vec(), b"y".to_vec()),
        (b"trusted.overlay.redirect".to_vec(), b"/".to_vec()),
        (b"security.selinux".to_vec(), b"x".to_vec()),
    ];
    let file_entry = Entry {
        size: 3,
        xattrs: xattrs.clone(),
        ..owned(Kind::File, "dir/file")
    };
    vec![
        (
            Entry {
                mode: 0o555,
                ..entry(Kind::Directory, "./")
            },
            vec![],
        ),
        (
            Entry {
                xattrs,
                ..owned(Kind::Directory, "dir")
            },
            vec![],
        ),
        (file_entry, b"abc".to_vec()),
        (
            Entry {
                link: b"/nowhere".to_vec(),
                ..owned(Kind::Symlink, "dir/link")
            },
            vec![],
        ),
        link(Kind::HardLink, "other/hard", "./dir/file"),
        (owned(Kind::Fifo, "dir/fifo"), vec![]),
        (
            Entry {
                device: (1, 3),
                ..owned(Kind::CharDevice, "dir/null")
            },
            vec![],
        ),
        (
            Entry {
                device: (7, 260),
                ..owned(Kind::BlockDevice, "dir/loop")
            },
            vec![],
        ),
    ]
}

#[test]
fn every_kind_with_its_metadata() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let unpacked = apply(root.path(), &every_kind()).unwrap();
    for name in ["dir", "dir/file", "dir/fifo", "dir/null", "dir/loop"] {
        let stat = stat(at(name));
        assert_eq!(
            (stat.mode() & 0o7777, stat.uid(), stat.gid()),
            (0o6754, 11, 12),
            "{name}"
        );
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (77, 5), "{name}");
    }
    let link = stat(at("dir/link"));
    assert_eq!((link.uid(), link.gid(), link.mtime()), (11, 12, 77));
    assert_eq!(std::fs::read_link(at("dir/link")).unwrap(), Path::new("/nowhere"));
    assert_eq!(stat(at("other/hard")).ino(), stat(at("dir/file")).ino());
    assert_eq!(stat(at("dir/null")).rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(stat(at("dir/loop")).rdev(), rustix::fs::makedev(7, 260));
    assert!(stat(at("dir/fifo")).file_type().is_fifo());
    assert_eq!(stat(root.path()).mode() & 0o7777, 0o555);
    for name in ["dir", "dir/file"] {
        let name = at(name);
        assert_eq!(xattr(&name, "user.mine").unwrap(), b"yes");
        for dropped in [
            "user.overlay.opaque",
            "trusted.overlay.redirect",
            "security.selinux",
        ] {
            assert_eq!(xattr(&name, dropped), None);
        }
    }
    assert_eq!(xattr(&at("dir/file"), "security.capability").unwrap(), CAPABILITY);
    assert_eq!(unpacked.implied, [b"other".to_vec()]);
    assert_eq!(unpacked.usage.inodes, 8);
    assert!(unpacked.usage.bytes >= 4096 && unpacked.usage.bytes < 100_000);
}

#[test]
fn whiteouts_and_replacements() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    apply(
        root.path(),
        &[
            file("a/.wh.gone", b""),
            file("a/.wh..wh..opq", b""),
            file(".wh..wh.plnk/1.2", b"aufs"),
            // Gone and there again in one layer: what is below must not show.
            file(".wh.back", b""),
            directory("back"),
            file("back/new", b"n"),
            file(".wh.below", b""),
            file("below/new", b"n"),
            directory("kept"),
            file("kept/inside", b"i"),
            file(".wh.kept", b""),
            file("stays", b"s"),
            file(".wh.stays", b""),
            // Each kind in place of another.
            file("f", b"1"),
            file("f", b"22"),
            directory("d"),
            file("d/x", b"x"),
            file("d", b"now a file"),
            file("e", b"a file"),
            directory("e"),
            link(Kind::Symlink, "s", "/etc/passwd"),
            file("s", b"mine"),
            link(Kind::Symlink, "t", "/etc"),
            directory("t"),
            file("t/passwd", b"mine"),
            directory("twice"),
            (
                Entry {
                    mode: 0o700,
                    ..entry(Kind::Directory, "twice")
                },
                vec![],
            ),
        ],
    )
    .unwrap();
    assert!(is_whiteout(&at("a/gone")) && is_opaque(&at("a")));
    assert!(!at(".wh..wh.plnk").exists());
    assert!(is_opaque(&at("back")) && at("back/new").is_file());
    assert!(is_opaque(&at("below")) && at("below/new").is_file());
    assert!(is_opaque(&at("kept")) && at("kept/inside").is_file());
    assert_eq!(std::fs::read(at("stays")).unwrap(), b"s");
    assert_eq!(std::fs::read(at("f")).unwrap(), b"22");
    assert_eq!(std::fs::read(at("d")).unwrap(), b"now a file");
    assert!(is_opaque(&at("e")));
    assert_eq!(std::fs::read(at("s")).unwrap(), b"mine");
    assert_eq!(std::fs::read(at("t/passwd")).unwrap(), b"mine");
    assert!(is_opaque(&at("t")) && !is_opaque(&at("twice")));
    assert_eq!(stat(at("twice")).mode() & 0o7777, 0o700);
}

type Case = (&'static str, Vec<Item>);

fn sym(name: &str, target: &str) -> Item {
    link(Kind::Symlink, name, target)
}

fn hard(name: &str, target: &str) -> Item {
    link(Kind::HardLink, name, target)
}

fn by_names() -> Vec<Case> {
    let deep = "d/".repeat(LAYER_DEPTH_MAX + 2);
    let long = "n".repeat(300);
    vec![
        ("parent", vec![file("../x", b"x")]),
        ("parent within", vec![file("a/../../x", b"x")]),
        ("parent at the end", vec![directory("a/..")]),
        ("link as the root", vec![sym(".", "/")]),
        ("file as the root by dots", vec![file(".", b"x")]),
        ("whiteout of nothing", vec![file(".wh.", b"")]),
        ("whiteout of the directory", vec![file("a/.wh..", b"")]),
        ("whiteout of the parent", vec![file("a/.wh...", b"")]),
        ("below a whiteout", vec![file(".wh.a/b", b"")]),
        ("link to nowhere", vec![sym("l", "")]),
        ("deep", vec![directory(&deep)]),
        ("long component", vec![file(&long, b"")]),
    ]
}

fn by_symbolic_links(out: &str) -> Vec<Case> {
    vec![
        ("through a link", vec![sym("l", out), file("l/x", b"x")]),
        (
            "through a relative link",
            vec![sym("l", "../../../../../../../../tmp"), file("l/x", b"x")],
        ),
        ("through a link to itself", vec![sym("l", "."), file("l/x", b"x")]),
        (
            "through two links",
            vec![sym("a", "b"), sym("b", out), file("a/x", b"x")],
        ),
        (
            "directory through a link",
            vec![sym("l", out), directory("l/dir")],
        ),
        (
            "whiteout through a link",
            vec![sym("l", out), file("l/.wh.canary", b"")],
        ),
        (
            "opaque through a link",
            vec![sym("l", out), file("l/.wh..wh..opq", b"")],
        ),
        ("link through a link", vec![sym("l", out), sym("l/x", "y")]),
        (
            "device through a link",
            vec![sym("l", out), (entry(Kind::CharDevice, "l/x"), vec![])],
        ),
        ("below a file", vec![file("f", b""), file("f/x", b"x")]),
    ]
}

fn by_hard_links(out: &str) -> Vec<Case> {
    let canary = format!("{out}/canary");
    vec![
        ("hard link out", vec![hard("h", &canary)]),
        ("hard link to a parent", vec![hard("h", "../canary")]),
        (
            "hard link through a link",
            vec![sym("l", out), hard("h", "l/canary")],
        ),
        ("hard link to a directory", vec![directory("d"), hard("h", "d")]),
        ("hard link to itself", vec![file("h", b"x"), hard("h", "./h")]),
        ("hard link to the root", vec![hard("h", "/")]),
        ("hard link to nothing", vec![hard("h", "nothing")]),
        (
            "hard link to what it replaces",
            vec![file("d/x", b"x"), hard("d", "d/x")],
        ),
        ("hard link to a whiteout's name", vec![hard("h", ".wh.x")]),
    ]
}

/// A hard link to a symbolic link is that link once more, and is replaced as one.
fn a_second_name_of_a_link_leads_nowhere(canary: &Path) {
    let target = canary.to_str().unwrap();
    let root = tempfile::tempdir().unwrap();
    apply(root.path(), &[sym("l", target), hard("h", "l")]).unwrap();
    assert_eq!(std::fs::read_link(root.path().join("h")).unwrap(), canary);
    assert_eq!(stat(canary).nlink(), 1);
    let root = tempfile::tempdir().unwrap();
    apply(root.path(), &[sym("l", target), hard("h", "l"), file("h", b"x")]).unwrap();
    assert_eq!(std::fs::read(root.path().join("h")).unwrap(), b"x");
    assert_eq!(std::fs::read(canary).unwrap(), b"alive");
    let root = tempfile::tempdir().unwrap();
    let through = [sym("l", "/tmp"), hard("h", "l"), file("h/x", b"x")];
    apply(root.path(), &through).unwrap_err();
}

#[test]
fn nothing_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    let canary = outside.path().join("canary");
    std::fs::write(&canary, b"alive").unwrap();
    std::fs::create_dir(outside.path().join("dir")).unwrap();
    let before = stat(outside.path().join("dir")).mode();
    let out = outside.path().to_str().unwrap();
    let cases = [by_names(), by_symbolic_links(out), by_hard_links(out)].concat();
    for (what, items) in cases {
        let root = tempfile::tempdir().unwrap();
        let error = apply(root.path(), &items).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        assert_eq!(std::fs::read(&canary).unwrap(), b"alive", "{what}");
        assert_eq!(stat(&canary).nlink(), 1, "{what}");
        assert_eq!(stat(outside.path().join("dir")).mode(), before, "{what}");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 2, "{what}");
    }
    a_second_name_of_a_link_leads_nowhere(&canary);
    // Absolute names are the layer's own, and a link in the way is replaced.
    let root = tempfile::tempdir().unwrap();
    let dir = (
        Entry {
            mode: 0o777,
            ..entry(Kind::Directory, "d/.")
        },
        vec![],
    );
    apply(
        root.path(),
        &[
            file(&format!("{out}/canary"), b"x"),
            sym("d", &format!("{out}/dir")),
            dir,
            hard("h", &format!("{out}/canary")),
        ],
    )
    .unwrap();
    assert_eq!(std::fs::read(&canary).unwrap(), b"alive");
    assert_eq!(stat(outside.path().join("dir")).mode(), before);
    assert!(root.path().join("h").is_file());
}

#[test]
fn names_that_are_not_text() {
    let root = tempfile::tempdir().unwrap();
    let mut odd = file("x", b"x");
    odd.0.name = b"\xff\xfe/\n\x01".to_vec();
    apply(root.path(), &[odd]).unwrap();
    assert!(
        root.path()
            .join(std::ffi::OsStr::from_bytes(b"\xff\xfe/\n\x01"))
            .is_file()
    );
}

#[test]
fn packings() {
    let archive = tar(&[file("f", &crate::tests::fixture::noise(5, 300_000))]);
    let members = [gzip(&archive[..1000]), gzip(&archive[1000..])].concat();
    let skippable = [b"\x50\x2a\x4d\x18\x04\0\0\0abcd".to_vec(), zstd(&archive)].concat();
    for packed in [
        archive.clone(),
        gzip(&archive),
        zstd(&archive),
        members,
        skippable,
    ] {
        let root = tempfile::tempdir().unwrap();
        unpacked(root.path(), packed, &archive).unwrap();
        assert_eq!(stat(root.path().join("f")).len(), 300_000);
    }
    let bomb = vec![0_u8; 40 << 20];
    let wrong = tar(&[file("g", b"")]);
    let bad: Vec<(&str, Vec<u8>, &[u8])> = vec![
        ("another archive", gzip(&archive), &wrong),
        ("half of gzip", gzip(&archive)[..1000].to_vec(), &archive),
        ("half of zstd", zstd(&archive)[..1000].to_vec(), &archive),
        ("no gzip", b"\x1f\x8b\x08garbage".to_vec(), &archive),
        ("no zstd", b"\x28\xb5\x2f\xfdgarbage".to_vec(), &archive),
        (
            "garbage after gzip",
            [gzip(&archive), b"garbage".to_vec()].concat(),
            &archive,
        ),
        (
            "a window of 2 GiB",
            b"\x28\xb5\x2f\xfd\x00\xa8\x01\0\0".to_vec(),
            &archive,
        ),
        (
            "no tar",
            gzip(&bomb[..2000].iter().map(|_| 7).collect::<Vec<u8>>()),
            &archive,
        ),
    ];
    for (what, packed, archive) in bad {
        let root = tempfile::tempdir().unwrap();
        let error = unpacked(root.path(), packed, archive).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
    }
}

#[test]
fn sizes_that_lie() {
    let archive = tar(&[file("f", b"x")]);
    for size in [archive.len() as u64 - 1, archive.len() as u64 + 1] {
        let root = tempfile::tempdir().unwrap();
        let expected = Expected {
            digest: Some(Digest::of(&archive)),
            size,
            diff_id: Digest::of(&archive),
        };
        let mut chunk = Some(Bytes::from(archive.clone()));
        let directory = std::fs::File::open(root.path()).unwrap();
        let error = unpack(|| Ok(chunk.take()), &expected, directory.as_fd()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
