//! What is read, and what is refused.

use std::io::Read;

use super::header::BLOCK;
use super::writer::{self, header, pax_record, seal};
use super::{Archive, Entry, Kind, read_error};
use crate::Result;
use crate::tests::fixture::{directory, entry, file, link, tar};

mod hostile;

type Entries = Vec<(Entry, Vec<u8>)>;

fn read(archive: &[u8]) -> Result<Entries> {
    let mut archive = Archive::new(archive);
    let mut all = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        let mut data = Vec::new();
        archive.read_to_end(&mut data).map_err(read_error)?;
        all.push((entry, data));
    }
    Ok(all)
}

/// An extension header with its data.
fn extension(typeflag: u8, data: &[u8]) -> Vec<u8> {
    let mut block = header(typeflag, b"ext", b"", &entry(Kind::File, ""), data.len() as u64).to_vec();
    block.extend_from_slice(data);
    block.resize(block.len().next_multiple_of(BLOCK), 0);
    block
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let data: Vec<u8> = records
        .iter()
        .flat_map(|(key, value)| pax_record(key.as_bytes(), value))
        .collect();
    extension(b'x', &data)
}

/// An archive of parts, with its end.
fn archive(parts: &[&[u8]]) -> Vec<u8> {
    let mut all = parts.concat();
    writer::finish(&mut all);
    all
}

/// One entry as the writer makes it, without an end.
fn part((entry, data): (Entry, Vec<u8>)) -> Vec<u8> {
    let mut part = Vec::new();
    writer::append(&mut part, &entry, &data);
    part
}

fn plain(data: &[u8]) -> Vec<u8> {
    part(file("f", data))
}

/// A block of a file `f` with some bytes set, and a new checksum.
fn edited(size: u64, at: usize, value: &[u8]) -> Vec<u8> {
    let mut block = header(b'0', b"f", b"", &entry(Kind::File, ""), size);
    block[at..at + value.len()].copy_from_slice(value);
    seal(&mut block);
    block.to_vec()
}

#[test]
fn all_that_the_writer_writes() {
    let long = "d/".repeat(150) + "f";
    let entries = vec![
        (
            Entry {
                mode: 0o7755,
                mtime: (-2, 500_000_000),
                ..directory("dir/").0
            },
            Vec::new(),
        ),
        (
            Entry {
                uid: 4_000_000_000,
                gid: 3_000_000,
                mtime: (5, 7),
                ..file(&long, b"data").0
            },
            b"data".to_vec(),
        ),
        file("empty", b""),
        file("big", &[7; 5000]),
        link(Kind::Symlink, "s", &"t/".repeat(100)),
        link(Kind::HardLink, "h", "big"),
        (
            Entry {
                device: (1, 3),
                ..entry(Kind::CharDevice, "null")
            },
            Vec::new(),
        ),
        (
            Entry {
                device: (8, 0),
                ..entry(Kind::BlockDevice, "sda")
            },
            Vec::new(),
        ),
        (entry(Kind::Fifo, "fifo"), Vec::new()),
        (
            Entry {
                xattrs: vec![(b"user.a=b".to_vec()[..6].to_vec(), b"\0\n=\xff".to_vec())],
                ..file("x", b"").0
            },
            Vec::new(),
        ),
    ];
    let found = read(&tar(&entries)).unwrap();
    assert_eq!(found.len(), entries.len());
    for (found, entry) in found.iter().zip(&entries) {
        assert!(found == entry, "{:?} is not {:?}", found.0, entry.0);
    }
}

#[test]
fn what_gnu_tar_writes() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("deep/".repeat(40));
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("file"), b"deep").unwrap();
    std::fs::write(root.path().join("short"), [b'x'; 1500]).unwrap();
    std::fs::hard_link(root.path().join("short"), root.path().join("also")).unwrap();
    std::os::unix::fs::symlink("t".repeat(180), root.path().join("link")).unwrap();
    for format in ["gnu", "oldgnu", "pax", "posix", "ustar", "v7"] {
        let members = if matches!(format, "v7" | "ustar") {
            "also short"
        } else {
            "also short link deep"
        };
        let mut command = std::process::Command::new("tar");
        command
            .arg("-C")
            .arg(root.path())
            .args(["--sort=name", "-c", "-H", format])
            .args(members.split(' '));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{format}");
        let entries = read(&output.stdout).unwrap();
        let files: Vec<_> = entries.iter().filter(|(e, _)| e.kind == Kind::File).collect();
        assert_eq!(files[0].1, [b'x'; 1500], "{format}");
        assert_eq!(
            (entries[1].0.kind, &entries[1].0.link[..]),
            (Kind::HardLink, &b"also"[..]),
            "{format}"
        );
        if members.ends_with("deep") {
            assert_eq!(entries[2].0.link, "t".repeat(180).as_bytes(), "{format}");
            let name = "deep/".repeat(40) + "file";
            assert_eq!(
                (&files[1].0.name[..], &files[1].1[..]),
                (name.as_bytes(), &b"deep"[..]),
                "{format}"
            );
        }
    }
}

#[test]
fn lenient_where_there_is_one_meaning() {
    let names = |archive: &[u8]| -> Vec<String> {
        let entries = read(archive).unwrap();
        entries
            .into_iter()
            .map(|(e, _)| String::from_utf8(e.name).unwrap())
            .collect()
    };
    // No end, half an end, and anything behind the end.
    assert_eq!(names(&plain(b"x")), ["f"]);
    assert_eq!(names(&[plain(b"x"), vec![0; BLOCK]].concat()), ["f"]);
    assert_eq!(names(&[archive(&[&plain(b"x")]), vec![7; 99]].concat()), ["f"]);
    assert_eq!(names(b""), [""; 0]);
    // A global comment, as git writes it.
    assert_eq!(
        names(&archive(&[
            &extension(b'g', &pax_record(b"comment", b"abc")),
            &plain(b"x")
        ])),
        ["f"]
    );
    // The size of the extended header wins.
    let sized = archive(&[
        &pax(&[("size", b"3")]),
        &edited(0, 0, b"f"),
        b"abc",
        &[0; BLOCK - 3],
        &plain(b""),
    ]);
    let entries = read(&sized).unwrap();
    assert_eq!((entries.len(), &entries[0].1[..]), (2, &b"abc"[..]));
    // Sizes of base 256, times before 1970, the prefix of ustar, directories told by their names, signed sums.
    let base256 = read(&archive(&[&edited(
        0,
        124,
        &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    )]))
    .unwrap();
    assert_eq!(base256[0].0.size, 0);
    let before = read(&archive(&[&edited(0, 136, &[0xff; 12])])).unwrap();
    assert_eq!(before[0].0.mtime, (-1, 0));
    assert_eq!(names(&archive(&[&edited(0, 345, b"a/b")])), ["a/b/f"]);
    assert_eq!(
        read(&archive(&[&edited(0, 0, b"f/")])).unwrap()[0].0.kind,
        Kind::Directory
    );
    let mut signed = edited(0, 0, b"\xff");
    let sum = u32::from_str_radix(std::str::from_utf8(&signed[148..154]).unwrap(), 8).unwrap() - 256;
    signed[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    assert_eq!(read(&archive(&[&signed])).unwrap().len(), 1);
    // An empty record takes nothing away.
    assert_eq!(
        names(&archive(&[&pax(&[("path", b""), ("foo", b"bar")]), &plain(b"")])),
        ["f"]
    );
}

/// Whatever the bytes are, there is an answer and no panic.
#[test]
fn any_bytes() {
    let whole = archive(&[
        &pax(&[("path", b"a/b"), ("mtime", b"1.5")]),
        &plain(b"x"),
        &extension(b'L', b"n\0"),
        &plain(b"y"),
    ]);
    for seed in 0..3000_u64 {
        let mut bytes = whole.clone();
        for change in crate::tests::fixture::noise(seed, 24).chunks(4) {
            let at = usize::from(change[0]) * 16 + usize::from(change[1] & 15);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = change[2];
            }
        }
        if seed % 2 == 0 {
            let mut at = 0;
            while at + BLOCK <= bytes.len() {
                let mut block: [u8; BLOCK] = bytes[at..at + BLOCK].try_into().unwrap();
                seal(&mut block);
                bytes[at..at + BLOCK].copy_from_slice(&block);
                at += 2 * BLOCK;
            }
        }
        bytes.truncate(bytes.len() - usize::try_from(seed % 600).unwrap());
        assert!(read(&bytes).map_or(0, |entries| entries.len()) < 10);
    }
}
