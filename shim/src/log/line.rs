//! A stream of bytes to lines of the CRI log format: `<time> <stream> <P|F> <bytes>`.

use std::io::BufRead;

use super::time::Stamp;
use crate::limits::LOG_LINE_BYTES;

/// One stream's way into the log.
#[derive(Debug)]
pub struct Lines {
    name: &'static str,
    /// The start of a line whose end has not been seen, at most [`LOG_LINE_BYTES`].
    tail: Vec<u8>,
}

impl Lines {
    /// For the stream `name`, "stdout" or "stderr".
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            tail: Vec::new(),
        }
    }

    /// Whether the start of a line waits for its end.
    #[must_use]
    pub fn holds_part(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Appends to `out` the lines and full parts that `data` completes, and keeps the rest.
    pub fn push(&mut self, mut data: &[u8], stamp: &Stamp, out: &mut Vec<u8>) {
        while !data.is_empty() {
            let room = LOG_LINE_BYTES - self.tail.len();
            // One byte more than a part: its newline may follow.
            let mut window = &data[..data.len().min(room + 1)];
            let (start, tag) = self.begin(stamp, out);
            // Reading from memory cannot fail.
            let taken = window.read_until(b'\n', out).unwrap_or(0);
            if out.last() == Some(&b'\n') {
                self.tail.clear();
                data = &data[taken..];
            } else if taken > room {
                out[tag] = b'P';
                if let Some(last) = out.last_mut() {
                    *last = b'\n';
                }
                self.tail.clear();
                data = &data[room..];
            } else {
                out.truncate(start);
                self.tail.extend_from_slice(data);
                return;
            }
        }
    }

    /// Appends the start of a line that waits, if one does, as a part.
    pub fn flush(&mut self, stamp: &Stamp, out: &mut Vec<u8>) {
        if self.tail.is_empty() {
            return;
        }
        let (_, tag) = self.begin(stamp, out);
        out[tag] = b'P';
        out.push(b'\n');
        self.tail = Vec::new();
    }

    /// Writes a line's head and what waited; gives the places of its begin and of its tag.
    fn begin(&self, stamp: &Stamp, out: &mut Vec<u8>) -> (usize, usize) {
        let start = out.len();
        out.extend_from_slice(stamp);
        out.push(b' ');
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(b" F ");
        let tag = out.len() - 2;
        out.extend_from_slice(&self.tail);
        (start, tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::time::stamp;

    fn log(pieces: &[&[u8]]) -> Vec<(u8, Vec<u8>)> {
        let (mut lines, mut out, stamp) = (Lines::new("stdout"), Vec::new(), stamp(0));
        for piece in pieces {
            lines.push(piece, &stamp, &mut out);
        }
        lines.flush(&stamp, &mut out);
        assert!(out.is_empty() || out.ends_with(b"\n"));
        let mut parsed = Vec::new();
        for line in out.split_inclusive(|b| *b == b'\n') {
            let body = line
                .strip_prefix(b"1970-01-01T00:00:00.000000000Z stdout ")
                .unwrap();
            assert_eq!(body[1], b' ');
            parsed.push((body[0], body[2..body.len() - 1].to_vec()));
        }
        parsed
    }

    #[test]
    fn whole_lines_and_a_rest() {
        assert_eq!(
            log(&[b"one\n\ntw", b"o\nthree"]),
            [
                (b'F', b"one".to_vec()),
                (b'F', vec![]),
                (b'F', b"two".to_vec()),
                (b'P', b"three".to_vec())
            ]
        );
        assert!(log(&[b""]).is_empty());
    }

    #[test]
    fn long_lines_are_split() {
        let long = vec![b'x'; LOG_LINE_BYTES];
        let exact = [&long[..], b"\n"].concat();
        assert_eq!(log(&[&exact]), [(b'F', long.clone())]);
        assert_eq!(log(&[&long, b"\n"]), [(b'F', long.clone())]);
        let more = [&long[..], b"yz\nnext\n"].concat();
        let split = [
            (b'P', long.clone()),
            (b'F', b"yz".to_vec()),
            (b'F', b"next".to_vec()),
        ];
        assert_eq!(log(&[&more]), split);
        assert_eq!(log(&[&long, b"y", b"z\nnext\n"]), split);
        assert_eq!(log(&[&long[1..], b"xyz\nnext\n"]), split);
    }

    #[test]
    fn nothing_is_lost_whatever_the_pieces() {
        let data: Vec<u8> = (0..100_000u32)
            .map(|i| {
                if i % 997 == 0 || i % 40_000 < 3 {
                    b'\n'
                } else {
                    b'a'
                }
            })
            .collect();
        for size in [1, 2, 7, 4096, 16_383, 16_384, 16_385, 65_536] {
            let mut back = Vec::new();
            for (tag, body) in log(&data.chunks(size).collect::<Vec<_>>()) {
                assert!(body.len() <= LOG_LINE_BYTES);
                back.extend(body);
                if tag == b'F' {
                    back.push(b'\n');
                }
            }
            assert!(back == data, "pieces of {size}");
        }
    }
}
