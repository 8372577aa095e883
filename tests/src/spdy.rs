//! A SPDY client for tests that open many sessions and are not polite about it.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};

/// No answer of a living server takes longer.
const PATIENCE: Duration = Duration::from_secs(crate::PATIENCE_S);

/// One streaming session, from the upgrade on. Dropping it drops the connection, without goodbye.
pub struct SpdySession {
    socket: TcpStream,
    zlib: Compress,
    next: u32,
}

/// Sends a request head to a streaming URL; gives the answer's head.
///
/// # Errors
/// When the connection fails.
pub fn request(url: &str, headers: &str) -> io::Result<(String, TcpStream)> {
    let (address, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .ok_or_else(|| io::Error::other(format!("not a streaming url: {url}")))?;
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let head = format!("POST /{path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    socket.write_all(head.as_bytes())?;
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") && socket.read(&mut byte)? == 1 {
        answer.push(byte[0]);
    }
    Ok((String::from_utf8_lossy(&answer).into_owned(), socket))
}

/// The headers that ask for SPDY and `protocol` on it.
pub fn upgrade(protocol: &str) -> String {
    format!("Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n")
}

impl SpdySession {
    /// Goes to `url` and upgrades.
    ///
    /// # Errors
    /// When the connection fails or the server refuses.
    pub fn open(url: &str, protocol: &str) -> io::Result<SpdySession> {
        let (answer, socket) = request(url, &upgrade(protocol))?;
        if !answer.starts_with("HTTP/1.1 101") {
            return Err(io::Error::other(format!("refused: {answer}")));
        }
        // Without the dictionary: both kinds of zlib stream are right.
        let zlib = Compress::new(Compression::fast(), true);
        Ok(SpdySession {
            socket,
            zlib,
            next: 1,
        })
    }

    /// Opens a stream; gives its number.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn stream(&mut self, headers: &[(&str, &str)]) -> io::Result<u32> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_be_bytes();
        let mut plain = u32::try_from(headers.len()).expect("few").to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(length(text.as_bytes()));
            plain.extend(text.as_bytes());
        }
        let mut packed = vec![0; plain.len() + 256];
        let before = self.zlib.total_out();
        self.zlib
            .compress(&plain, &mut packed, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        packed.truncate(usize::try_from(self.zlib.total_out() - before).expect("short"));
        let (stream, [_, a, b, c]) = (self.next, length(&[&[0; 10][..], &packed].concat()));
        let mut frame = vec![0x80, 3, 0, 1, 0, a, b, c];
        frame.extend(stream.to_be_bytes());
        frame.extend([0; 6]);
        frame.extend(packed);
        self.socket.write_all(&frame)?;
        self.next += 2;
        Ok(stream)
    }

    /// Sends bytes on a stream; `fin` ends it.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn send(&mut self, stream: u32, bytes: &[u8], fin: bool) -> io::Result<()> {
        let [_, a, b, c] = u32::try_from(bytes.len()).expect("short").to_be_bytes();
        self.socket.write_all(&stream.to_be_bytes())?;
        self.socket.write_all(&[u8::from(fin), a, b, c])?;
        self.socket.write_all(bytes)
    }

    /// Reads until a data frame with bytes comes: its stream and bytes. Other frames are passed over.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn data(&mut self) -> io::Result<(u32, Vec<u8>)> {
        loop {
            let mut head = [0; 8];
            self.socket.read_exact(&mut head)?;
            let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]);
            let mut bytes = vec![0; usize::try_from(length).expect("24 bits")];
            self.socket.read_exact(&mut bytes)?;
            if first >> 31 == 0 && !bytes.is_empty() {
                return Ok((first, bytes));
            }
        }
    }
}
