//! Messages of D-Bus, as far as systemd's manager is asked by them: the D-Bus specification, "Message Protocol".

use crate::fault::{Fault, Result};

/// A message of the manager's is far below; the specification allows 128 MiB.
const BYTES_MAX: usize = 1 << 20;
/// Fixed part of a header, up to the length of its fields.
const FIXED_BYTES: usize = 16;

/// The value of a unit's property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `s`
    Text(String),
    /// `b`
    Flag(bool),
    /// `t`; `u64::MAX` is systemd's "infinity".
    Number(u64),
    /// `au`
    Numbers(Vec<u32>),
    /// `ay`
    Bytes(Vec<u8>),
    /// `a(ss)`
    Pairs(Vec<(String, String)>),
}

/// A property: the names are ours, and never come from a request (CVE-2024-3154).
pub type Property = (&'static str, Value);

/// Writes values, little-endian, each aligned to its size.
#[derive(Debug, Default)]
pub(super) struct Body {
    bytes: Vec<u8>,
}

impl Body {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.put_u32(value);
        self
    }

    pub(super) fn text(mut self, value: &str) -> Self {
        self.put_text(value);
        self
    }

    pub(super) fn flag(self, value: bool) -> Self {
        self.u32(value.into())
    }

    /// `a(sv)`
    pub(super) fn properties(mut self, properties: &[Property]) -> Self {
        self.array(8, |body| {
            for (name, value) in properties {
                body.align(8);
                body.put_text(name);
                body.variant(value);
            }
        });
        self
    }

    /// `a(sa(sv))`: further units, of which there are none.
    pub(super) fn no_units(mut self) -> Self {
        self.array(8, |_| {});
        self
    }

    fn put_u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
    }

    /// A string's length counts its bytes without the NUL after them.
    fn put_text(&mut self, value: &str) {
        self.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.bytes.extend(value.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, value: &str) {
        self.bytes.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
        self.bytes.extend(value.as_bytes());
        self.bytes.push(0);
    }

    /// An array's length counts from its first element: the padding before that is not in it.
    fn array(&mut self, align: usize, fill: impl FnOnce(&mut Self)) {
        self.put_u32(0);
        let length_at = self.bytes.len() - 4;
        self.align(align);
        let start = self.bytes.len();
        fill(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(length_at..length_at + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }

    fn variant(&mut self, value: &Value) {
        match value {
            Value::Text(text) => {
                self.signature("s");
                self.put_text(text);
            }
            Value::Flag(flag) => {
                self.signature("b");
                self.put_u32((*flag).into());
            }
            Value::Number(number) => {
                self.signature("t");
                self.align(8);
                self.bytes.extend(number.to_le_bytes());
            }
            Value::Numbers(numbers) => {
                self.signature("au");
                self.array(4, |body| numbers.iter().for_each(|number| body.put_u32(*number)));
            }
            Value::Bytes(bytes) => {
                self.signature("ay");
                self.array(1, |body| body.bytes.extend(bytes));
            }
            Value::Pairs(pairs) => {
                self.signature("a(ss)");
                self.array(8, |body| {
                    for (first, second) in pairs {
                        body.align(8);
                        body.put_text(first);
                        body.put_text(second);
                    }
                });
            }
        }
    }
}

/// Whom a method is called on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub destination: &'static str,
    pub path: &'static str,
    pub interface: &'static str,
}

/// A method call.
pub(super) fn call(serial: u32, target: Target, member: &str, signature: &str, body: Body) -> Vec<u8> {
    let length = u32::try_from(body.bytes.len()).unwrap_or(u32::MAX);
    let mut message = Body {
        // Little-endian, method call, no flags, protocol version 1.
        bytes: vec![b'l', 1, 0, 1],
    };
    message.put_u32(length);
    message.put_u32(serial);
    message.array(8, |header| {
        let mut field = |code: u8, kind: &str, value: &str| {
            header.align(8);
            header.bytes.push(code);
            header.signature(kind);
            if kind == "g" {
                header.signature(value);
            } else {
                header.put_text(value);
            }
        };
        field(1, "o", target.path);
        field(2, "s", target.interface);
        field(3, "s", member);
        field(6, "s", target.destination);
        if !signature.is_empty() {
            field(8, "g", signature);
        }
    });
    message.align(8);
    message.bytes.extend(body.bytes);
    message.bytes
}

/// What kind of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Return,
    Error,
    Signal,
    Other,
}

/// A message that was received.
#[derive(Debug)]
pub(super) struct Message {
    pub kind: Kind,
    /// The call that it answers.
    pub reply_serial: u32,
    /// Of a signal.
    pub member: String,
    /// Of an error.
    pub error: String,
    signature: String,
    big: bool,
    body: Vec<u8>,
}

impl Message {
    /// Takes the first message off `buffer`; `None`: it is not there yet as a whole.
    ///
    /// # Errors
    /// What is there is no message, or too large.
    pub(super) fn take(buffer: &mut Vec<u8>) -> Result<Option<Self>> {
        let (Some(order), Some(kind)) = (buffer.first(), buffer.get(1)) else {
            return Ok(None);
        };
        let big = match order {
            b'l' => false,
            b'B' => true,
            _ => return Err(malformed()),
        };
        let kind = match kind {
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => Kind::Other,
        };
        if buffer.len() < FIXED_BYTES {
            return Ok(None);
        }
        let mut fixed = Reader {
            bytes: buffer,
            at: 4,
            big,
        };
        let (body, _serial, fields) = (fixed.size()?, fixed.u32()?, fixed.size()?);
        if body > BYTES_MAX || fields > BYTES_MAX {
            return Err(Fault::internal("a D-Bus message is too large"));
        }
        let start = (FIXED_BYTES + fields).next_multiple_of(8);
        if buffer.len() < start + body {
            return Ok(None);
        }
        let rest = buffer.split_off(start + body);
        let whole = std::mem::replace(buffer, rest);
        let mut message = Self {
            kind,
            reply_serial: 0,
            member: String::new(),
            error: String::new(),
            signature: String::new(),
            big,
            body: whole.get(start..).unwrap_or_default().to_vec(),
        };
        let header = whole.get(..FIXED_BYTES + fields).unwrap_or_default();
        message.read_fields(header)?;
        Ok(Some(message))
    }

    fn read_fields(&mut self, header: &[u8]) -> Result<()> {
        let mut reader = Reader {
            bytes: header,
            at: FIXED_BYTES,
            big: self.big,
        };
        while reader.at < header.len() {
            reader.align(8);
            let code = reader.byte()?;
            match (code, reader.signature()?.as_str()) {
                (3, "s") => self.member = reader.text()?,
                (4, "s") => self.error = reader.text()?,
                (5, "u") => self.reply_serial = reader.u32()?,
                (8, "g") => self.signature = reader.signature()?,
                (_, "s" | "o") => drop(reader.text()?),
                (_, "u") => drop(reader.u32()?),
                (_, "g") => drop(reader.signature()?),
                _ => return Err(malformed()),
            }
        }
        Ok(())
    }

    /// The first texts of the body, up to `count`; numbers between them are left out.
    ///
    /// # Errors
    /// The body is not what its signature says.
    pub(super) fn texts(&self, count: usize) -> Result<Vec<String>> {
        let mut reader = Reader {
            bytes: &self.body,
            at: 0,
            big: self.big,
        };
        let mut out = Vec::new();
        for kind in self.signature.chars() {
            match kind {
                _ if out.len() == count => break,
                's' | 'o' => out.push(reader.text()?),
                'u' => drop(reader.u32()?),
                // The rest is of no interest.
                _ => break,
            }
        }
        Ok(out)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(count).ok_or_else(malformed)?;
        let bytes = self.bytes.get(self.at..end).ok_or_else(malformed)?;
        self.at = end;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1)?.first().copied().ok_or_else(malformed)
    }

    fn u32(&mut self) -> Result<u32> {
        self.align(4);
        let big = self.big;
        let bytes: [u8; 4] = self.take(4)?.try_into().map_err(|_| malformed())?;
        Ok(if big {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }

    fn size(&mut self) -> Result<usize> {
        usize::try_from(self.u32()?).map_err(|_| malformed())
    }

    fn text(&mut self) -> Result<String> {
        let length = self.size()?;
        self.ended(length)
    }

    fn signature(&mut self) -> Result<String> {
        let length = self.byte()?.into();
        self.ended(length)
    }

    /// Text of this length, and the NUL after it.
    fn ended(&mut self, length: usize) -> Result<String> {
        let text = self.take(length)?.to_vec();
        self.byte()?;
        String::from_utf8(text).map_err(|_| malformed())
    }
}

fn malformed() -> Fault {
    Fault::internal("a malformed D-Bus message")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target = Target {
        destination: "d.e",
        path: "/p",
        interface: "i.f",
    };

    /// A reply, as a peer would send it; the header's fields come in any order.
    fn reply(kind: u8, fields: &[(u8, &str, &str)], serial: u32, body: Body) -> Vec<u8> {
        let mut message = Body {
            bytes: vec![b'l', kind, 1, 1],
        };
        message.put_u32(u32::try_from(body.bytes.len()).unwrap());
        message.put_u32(9);
        message.array(8, |header| {
            header.bytes.push(5);
            header.signature("u");
            header.put_u32(serial);
            for (code, kind, value) in fields {
                header.align(8);
                header.bytes.push(*code);
                header.signature(kind);
                if *kind == "g" {
                    header.signature(value);
                } else {
                    header.put_text(value);
                }
            }
        });
        message.align(8);
        message.bytes.extend(body.bytes);
        message.bytes
    }

    #[test]
    fn a_call_is_laid_out_as_the_specification_says() {
        let bytes = call(7, TARGET, "Go", "", Body::default());
        let want = b"l\x01\0\x01\0\0\0\0\x07\0\0\0\x36\0\0\0\
            \x01\x01o\0\x02\0\0\0/p\0\0\0\0\0\0\
            \x02\x01s\0\x03\0\0\0i.f\0\0\0\0\0\
            \x03\x01s\0\x02\0\0\0Go\0\0\0\0\0\0";
        // The fourth field, without the padding to the body in its length.
        let mut want = want.to_vec();
        want.extend(b"\x06\x01s\0\x03\0\0\0d.e\0\0\0\0\0");
        want[12] = 16 * 3 + 12;
        assert_eq!(bytes, want);
    }

    #[test]
    fn properties_are_aligned() {
        let body = Body::default().properties(&[
            ("A", Value::Number(1)),
            ("B", Value::Bytes(vec![7])),
            ("C", Value::Pairs(vec![("x".into(), "y".into())])),
        ]);
        // length and padding | A: 4+2, variant 1+1+1, to 16, 8 | B: 4+2, 4, 4+1 …
        let length = u32::from_le_bytes(body.bytes[..4].try_into().unwrap());
        assert_eq!(length as usize, body.bytes.len() - 8);
        assert_eq!(&body.bytes[8..17], b"\x01\0\0\0A\0\x01t\0");
        assert_eq!(&body.bytes[24..32], &1u64.to_le_bytes());
        assert_eq!(&body.bytes[32..42], b"\x01\0\0\0B\0\x02ay\0");
        assert_eq!(&body.bytes[44..49], b"\x01\0\0\0\x07");
    }

    #[test]
    fn replies_are_read_when_they_are_whole() {
        let body = Body::default().u32(3).text("/job/1").text("a.scope").text("done");
        let bytes = reply(
            4,
            &[(3, "s", "JobRemoved"), (8, "g", "uoss"), (1, "o", "/o")],
            2,
            body,
        );
        let mut buffer = Vec::new();
        for byte in &bytes {
            assert!(Message::take(&mut buffer).unwrap().is_none());
            buffer.push(*byte);
        }
        buffer.push(b'l');
        let message = Message::take(&mut buffer).unwrap().unwrap();
        assert_eq!(buffer, b"l");
        assert_eq!((message.kind, message.reply_serial), (Kind::Signal, 2));
        assert_eq!(message.member, "JobRemoved");
        assert_eq!(message.texts(2).unwrap(), ["/job/1", "a.scope"]);
        assert_eq!(message.texts(9).unwrap().len(), 3);
    }

    #[test]
    fn what_is_no_message_is_an_error_and_no_panic() {
        assert!(Message::take(&mut b"HTTP/1.1 400 Bad".to_vec()).is_err());
        let mut large = vec![b'l', 2, 0, 1];
        large.extend([0xff; 12]);
        assert!(Message::take(&mut large).is_err());
        let whole = reply(
            3,
            &[(4, "s", "a.Error"), (8, "g", "s")],
            1,
            Body::default().text("no"),
        );
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0xff;
            if let Ok(Some(message)) = Message::take(&mut broken) {
                message.texts(4).ok();
            }
        }
    }
}
