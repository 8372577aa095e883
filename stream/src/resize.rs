//! The resize stream: JSON objects, one after the other, each a terminal's size.

use serde_json::Value;

use crate::Size;

/// One object is some thirty bytes. What does not end within this is no size.
const OBJECT_MAX: usize = 1024;

/// Gathers bytes into sizes.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    pending: Vec<u8>,
    broken: bool,
}

impl Sizes {
    /// Takes more bytes; gives the last whole size among them, as the earlier ones are of no use any more.
    /// After the first malformed object the stream says nothing more.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<Size> {
        let mut last = None;
        // In pieces, so that what is held at once stays small whatever the size of the frame.
        for piece in bytes.chunks(OBJECT_MAX) {
            if self.broken {
                break;
            }
            self.pending.extend_from_slice(piece);
            last = self.parse().or(last);
        }
        last
    }

    fn parse(&mut self) -> Option<Size> {
        let mut last = None;
        let mut objects = serde_json::Deserializer::from_slice(&self.pending).into_iter::<Value>();
        for object in objects.by_ref() {
            match object.as_ref().map(size) {
                Ok(Some(size)) => {
                    last = Some(size);
                    continue;
                }
                Ok(None) => self.broken = true,
                // The end of the bytes is not the end of the object.
                Err(error) => self.broken = !error.is_eof(),
            }
            break;
        }
        let used = objects.byte_offset();
        self.pending.drain(..used);
        if self.broken || self.pending.len() > OBJECT_MAX {
            self.broken = true;
            self.pending = Vec::new();
        }
        last
    }
}

fn size(object: &Value) -> Option<Size> {
    let side = |name| {
        object
            .get(name)
            .and_then(Value::as_u64)
            .and_then(|side| u16::try_from(side).ok())
    };
    Some(Size {
        width: side("Width")?,
        height: side("Height")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_size_counts() {
        let mut sizes = Sizes::default();
        let got = sizes.push(b"{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Height\":50}\n{\"Wid");
        assert_eq!(
            got,
            Some(Size {
                width: 100,
                height: 50
            })
        );
        assert_eq!(sizes.push(b"th\":1,\"Height\":"), None);
        assert_eq!(sizes.push(b"2}"), Some(Size { width: 1, height: 2 }));
    }

    #[test]
    fn nonsense_ends_it() {
        for bad in [
            &b"}"[..],
            b"[1,2]",
            b"{\"Width\":-1,\"Height\":2}",
            b"{\"Width\":70000,\"Height\":2}",
            &[b' '; 2000],
            &[b'['; 2000],
        ] {
            let mut sizes = Sizes::default();
            let mut got = sizes.push(bad);
            got = sizes.push(b"{\"Width\":1,\"Height\":2}").or(got);
            assert!(sizes.pending.len() <= OBJECT_MAX);
            assert!(got.is_none() || bad[0] == b' ', "{bad:?}");
        }
    }
}
