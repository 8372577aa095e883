//! Archives that are refused.

use super::*;
use crate::ErrorKind;
use crate::limits::{TAR_HEADER_MAX, TAR_NAME_MAX, TAR_XATTRS_MAX};

/// What it is, the archive, and what the error says.
type Case = (&'static str, Vec<u8>, &'static str);

#[test]
fn refused() {
    let cases: Vec<Case> = [blocks(), kinds(), conflicts(), records(), values()].concat();
    assert!(cases.len() >= 40);
    for (what, archive, why) in cases {
        let error = read(&archive).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        assert!(error.to_string().contains(why), "{what}: {error}");
    }
}

fn f_entry() -> Entry {
    entry(Kind::File, "")
}

/// A complete archive.
fn with(parts: &[&[u8]]) -> Vec<u8> {
    archive(parts)
}

/// Blocks and numbers that are malformed.
fn blocks() -> Vec<Case> {
    let f = plain(b"");
    let data = plain(&[1; 600]);
    let mut bad_sum = f.clone();
    bad_sum[0] = b'g';
    vec![
        ("checksum", with(&[&bad_sum]), "checksum"),
        ("garbage", vec![b'x'; 4 * BLOCK], "malformed checksum"),
        ("half a header", f[..300].to_vec(), "within a header"),
        ("half a file", data[..BLOCK + 100].to_vec(), "within a file"),
        ("no padding", data[..BLOCK + 600].to_vec(), "ends early"),
        (
            "zeros between",
            [&f[..], &[0; BLOCK], &f[..]].concat(),
            "after a block of zeros",
        ),
        (
            "size with a letter",
            with(&[&edited(0, 124, b"0000000000x")]),
            "malformed size",
        ),
        (
            "size with a sign",
            with(&[&edited(0, 124, b"-0000000001")]),
            "malformed size",
        ),
        (
            "digits after the end",
            with(&[&edited(0, 124, b"0 1\0\0\0\0\0\0\0\0")]),
            "malformed size",
        ),
        (
            "negative size",
            with(&[&edited(0, 124, &[0xff; 12])]),
            "out of range",
        ),
        (
            "huge size",
            with(&[&edited(0, 124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")]),
            "impossible size",
        ),
        (
            "size beyond 64 bits",
            with(&[&edited(0, 124, b"\x80\x01\0\0\0\0\0\0\0\0\0\0")]),
            "out of range",
        ),
    ]
}

/// Entries that cannot be.
fn kinds() -> Vec<Case> {
    let f = plain(b"");
    let mut cases = vec![
        (
            "uid beyond 32 bits",
            with(&[&edited(0, 108, b"\x80\0\0\x01\0\0\0\0")]),
            "uid",
        ),
        ("uid -1", with(&[&pax(&[("uid", b"4294967295")]), &f]), "uid"),
        ("gid -1", with(&[&pax(&[("gid", b"4294967295")]), &f]), "gid"),
        (
            "uid with a sign",
            with(&[&pax(&[("uid", b"-1")]), &f]),
            "PAX number",
        ),
        (
            "PAX size on a link",
            with(&[
                &pax(&[("size", b"512")]),
                &header(b'2', b"l", b"t", &f_entry(), 0),
            ]),
            "no file",
        ),
        (
            "PAX sparse",
            with(&[&pax(&[("GNU.sparse.major", b"1")]), &f]),
            "sparse",
        ),
        ("unknown magic", with(&[&edited(0, 257, b"ustarX  ")]), "magic"),
    ];
    for (what, flag, name, size, words) in [
        ("link with data", b'2', "l", 5, "no file"),
        ("hard link with data", b'1', "l", 5, "no file"),
        ("directory with data", b'5', "d", 5, "no file"),
        ("device with data", b'3', "d", 5, "no file"),
        ("file named as directory", b'0', "d/", 5, "no file"),
        ("sparse", b'S', "s", 0, "sparse"),
        ("unknown type", b'M', "m", 0, "unknown type"),
        ("type 255", 0xff, "m", 0, "unknown type"),
    ] {
        let link: &[u8] = if matches!(flag, b'1' | b'2') { b"t" } else { b"" };
        let block = header(flag, name.as_bytes(), link, &f_entry(), size);
        let data = if size > 0 { BLOCK } else { 0 };
        cases.push((what, with(&[&block, &[0; BLOCK][..data]]), words));
    }
    cases
}

/// Two meanings, and names that are none.
fn conflicts() -> Vec<Case> {
    let f = plain(b"");
    let long = vec![b'n'; TAR_NAME_MAX + 1];
    let gnu_long = b"name\0";
    vec![
        (
            "key twice",
            with(&[&pax(&[("path", b"a"), ("path", b"b")]), &f]),
            "twice",
        ),
        (
            "size twice",
            with(&[&pax(&[("size", b"0"), ("size", b"0")]), &f]),
            "twice",
        ),
        (
            "two headers",
            with(&[&pax(&[("path", b"a")]), &pax(&[("path", b"b")]), &f]),
            "two of",
        ),
        (
            "two long names",
            with(&[&extension(b'L', gnu_long), &extension(b'L', gnu_long), &f]),
            "two of",
        ),
        (
            "two kinds of name",
            with(&[&extension(b'L', gnu_long), &pax(&[("path", b"b")]), &f]),
            "in PAX and in GNU",
        ),
        (
            "header for nobody",
            with(&[&pax(&[("path", b"a")])]),
            "without an entry",
        ),
        (
            "long name for nobody",
            extension(b'L', gnu_long),
            "without an entry",
        ),
        (
            "zero in a path",
            with(&[&pax(&[("path", b"a\0b")]), &f]),
            "zero byte",
        ),
        (
            "zero in a long name",
            with(&[&extension(b'L', b"a\0b\0"), &f]),
            "zero byte",
        ),
        ("long path", with(&[&pax(&[("path", &long)]), &f]), "more than"),
        ("long GNU name", with(&[&extension(b'L', &long), &f]), "more than"),
        ("long link", with(&[&extension(b'K', &long), &f]), "more than"),
    ]
}

/// Extended headers that are malformed.
fn records() -> Vec<Case> {
    let f = plain(b"");
    vec![
        (
            "record too long",
            with(&[&extension(b'x', b"99 a=b\n"), &f]),
            "malformed PAX",
        ),
        (
            "record too short",
            with(&[&extension(b'x', b"3 a=b\n"), &f]),
            "malformed PAX",
        ),
        (
            "record of nothing",
            with(&[&extension(b'x', b"0 "), &f]),
            "malformed PAX",
        ),
        (
            "record without newline",
            with(&[&extension(b'x', b"6 a=b\0"), &f]),
            "malformed PAX",
        ),
        (
            "record without equals",
            with(&[&extension(b'x', b"5 ab\n"), &f]),
            "malformed PAX",
        ),
        (
            "record without key",
            with(&[&extension(b'x', b"5 =b\n"), &f]),
            "malformed PAX",
        ),
        (
            "length beyond 64 bits",
            with(&[&extension(b'x', b"99999999999999999999 a=b\n"), &f]),
            "malformed PAX",
        ),
    ]
}

/// Values that are malformed, and headers that are too large.
fn values() -> Vec<Case> {
    let f = plain(b"");
    let many_xattrs: Vec<u8> = (0..=TAR_XATTRS_MAX)
        .flat_map(|at| pax_record(format!("SCHILY.xattr.user.{at}").as_bytes(), b"v"))
        .collect();
    vec![
        (
            "bad PAX size",
            with(&[&pax(&[("size", b"1e3")]), &f]),
            "PAX number",
        ),
        (
            "PAX size beyond 64 bits",
            with(&[&pax(&[("size", b"18446744073709551616")]), &f]),
            "PAX number",
        ),
        ("bad time", with(&[&pax(&[("mtime", b"1.2.3")]), &f]), "PAX time"),
        (
            "many attributes",
            with(&[&extension(b'x', &many_xattrs), &f]),
            "extended attributes",
        ),
        (
            "attribute without a name",
            with(&[&pax(&[("SCHILY.xattr.", b"v")]), &f]),
            "attribute name",
        ),
        (
            "global path",
            with(&[&extension(b'g', &pax_record(b"path", b"a")), &f]),
            "global",
        ),
        (
            "global size",
            with(&[&extension(b'g', &pax_record(b"size", b"9")), &f]),
            "global",
        ),
        (
            "large header",
            [&header(b'x', b"p", b"", &f_entry(), TAR_HEADER_MAX + 1)[..], &f].concat(),
            "extended header of",
        ),
        (
            "half a header's data",
            header(b'x', b"p", b"", &f_entry(), 1000).to_vec(),
            "it ends within",
        ),
    ]
}
