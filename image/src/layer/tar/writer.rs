//! Archives of our own: directories without data, and what the tests need.

use super::header::BLOCK;
use super::{Entry, Kind};

/// Appends `entry`, with `data` if it is a file; everything as PAX records that the header has no room for.
pub(crate) fn append(archive: &mut Vec<u8>, entry: &Entry, data: &[u8]) {
    let mut records = Vec::new();
    let mut record = |key: &[u8], value: &[u8]| records.extend_from_slice(&pax_record(key, value));
    if entry.name.len() > 100 {
        record(b"path", &entry.name);
    }
    if entry.link.len() > 100 {
        record(b"linkpath", &entry.link);
    }
    if entry.mtime.0 < 0 || entry.mtime.1 != 0 {
        let time = match entry.mtime {
            (seconds, nanos) if seconds < 0 && nanos > 0 => {
                format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos)
            }
            (seconds, nanos) => format!("{seconds}.{nanos:09}"),
        };
        record(b"mtime", time.as_bytes());
    }
    if entry.uid > 0o777_7777 {
        record(b"uid", entry.uid.to_string().as_bytes());
    }
    if entry.gid > 0o777_7777 {
        record(b"gid", entry.gid.to_string().as_bytes());
    }
    for (name, value) in &entry.xattrs {
        record(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    if !records.is_empty() {
        archive.extend_from_slice(&header(b'x', b"pax", b"", entry, records.len() as u64));
        append_data(archive, &records);
    }
    archive.extend_from_slice(&header(
        typeflag(entry.kind),
        &entry.name,
        &entry.link,
        entry,
        entry.size,
    ));
    append_data(archive, data);
}

/// Ends the archive.
pub(crate) fn finish(archive: &mut Vec<u8>) {
    archive.extend_from_slice(&[0; 2 * BLOCK]);
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
pub(crate) fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// One header block; names are cut at their fields' ends.
pub(crate) fn header(typeflag: u8, name: &[u8], link: &[u8], entry: &Entry, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, value: &[u8]| block[at..at + value.len()].copy_from_slice(value);
    let octal = |value: u64, width: usize| format!("{value:0width$o}").into_bytes();
    put(0, &name[..name.len().min(100)]);
    put(100, &octal(entry.mode.into(), 7));
    put(108, &octal(u64::from(entry.uid) & 0o777_7777, 7));
    put(116, &octal(u64::from(entry.gid) & 0o777_7777, 7));
    put(124, &octal(size, 11));
    put(136, &octal(entry.mtime.0.max(0).unsigned_abs(), 11));
    put(156, &[typeflag]);
    put(157, &link[..link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, &octal(entry.device.0.into(), 7));
    put(337, &octal(entry.device.1.into(), 7));
    seal(&mut block);
    block
}

/// Writes the checksum.
pub(crate) fn seal(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn append_data(archive: &mut Vec<u8>, data: &[u8]) {
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}

fn typeflag(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}
