//! A SPDY client, small and blunt: it can also misbehave.

use std::collections::BTreeMap;

use bytes::{Buf as _, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Data(u32, Vec<u8>, bool),
    Reply(u32),
    Reset(u32, u32),
    Ping(u32),
    GoAway,
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    buffer: BytesMut,
    zlib: Compress,
}

/// Sends a request head and reads the answer's.
pub(crate) async fn request(url: &str, headers: &str, method: &str) -> (String, TcpStream) {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!("{method} /{path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(_) => break,
        }
    }
    (String::from_utf8(answer).unwrap().to_ascii_lowercase(), socket)
}

pub(crate) fn upgrade(protocol: &str) -> String {
    format!("Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n")
}

impl Client {
    pub(crate) async fn connect(url: &str, protocol: &str) -> Self {
        let (answer, socket) = request(url, &upgrade(protocol), "POST").await;
        assert!(answer.starts_with("http/1.1 101"), "{answer}");
        assert!(
            answer.contains(&format!("x-stream-protocol-version: {protocol}")),
            "{answer}"
        );
        // Without the dictionary: both kinds of zlib stream are right.
        Self {
            socket,
            buffer: BytesMut::new(),
            zlib: Compress::new(Compression::best(), true),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let mut plain = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut payload = [&stream.to_be_bytes()[..], &[0; 6]].concat();
        payload.extend(self.deflate(&plain));
        self.send(&control(1, &payload)).await;
    }

    pub(crate) fn deflate(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut packed = vec![0; plain.len() + 256];
        let before = self.zlib.total_out();
        self.zlib
            .compress(plain, &mut packed, FlushCompress::Sync)
            .unwrap();
        packed.truncate(usize::try_from(self.zlib.total_out() - before).unwrap());
        packed
    }

    pub(crate) async fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) {
        let mut frame = stream.to_be_bytes().to_vec();
        let [_, a, b, c] = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        frame.extend([u8::from(fin), a, b, c]);
        frame.extend(bytes);
        self.send(&frame).await;
    }

    /// The next frame; none when the server hung up.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if self.buffer.len() >= 8 {
                let length = usize::try_from((&self.buffer[4..8]).get_u32() & 0x00ff_ffff).unwrap();
                if self.buffer.len() >= 8 + length {
                    let mut frame = self.buffer.split_to(8 + length);
                    let first = frame.get_u32();
                    let fin = frame.get_u32() >> 24 & 1 == 1;
                    return Some(match first {
                        data if data >> 31 == 0 => Frame::Data(data, frame.to_vec(), fin),
                        0x8003_0002 => Frame::Reply(frame.get_u32()),
                        0x8003_0003 => Frame::Reset(frame.get_u32(), frame.get_u32()),
                        0x8003_0006 => Frame::Ping(frame.get_u32()),
                        0x8003_0007 => Frame::GoAway,
                        other => panic!("frame {other:x}"),
                    });
                }
            }
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Everything up to the end: what each stream brought, and which were finished or reset.
    pub(crate) async fn rest(&mut self) -> (BTreeMap<u32, Vec<u8>>, Vec<u32>) {
        let (mut bytes, mut ended) = (BTreeMap::new(), Vec::new());
        while let Some(frame) = self.next().await {
            match frame {
                Frame::Data(stream, data, fin) => {
                    bytes.entry(stream).or_insert_with(Vec::new).extend(data);
                    if fin {
                        ended.push(stream);
                    }
                }
                Frame::Reset(stream, _) => ended.push(stream),
                Frame::GoAway => break,
                Frame::Reply(_) | Frame::Ping(_) => {}
            }
        }
        (bytes, ended)
    }
}

pub(crate) fn control(kind: u8, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x80, 3, 0, kind, 0, a, b, c][..], payload].concat()
}
