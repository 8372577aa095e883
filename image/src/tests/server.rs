//! A registry of a few lines, which counts what is fetched and can be made slow or unreliable.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::fixture::Layout;

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) authority: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bodies and their media types by what ends the path: a tag or a digest.
    content: Mutex<HashMap<String, (String, Vec<u8>)>>,
    fetched: Mutex<HashMap<String, usize>>,
    /// Bodies of blobs are cut after this many bytes, when not 0.
    cut: AtomicUsize,
    slow: AtomicBool,
    held: AtomicBool,
}

impl Server {
    pub(crate) fn start(layout: &Layout) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let server = Self {
            authority,
            shared: Arc::default(),
        };
        server.publish(layout);
        let shared = server.shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(&stream.unwrap(), &shared));
            }
        });
        server
    }

    /// Serves the blobs of `layout`, and its named manifests by the last part of their names.
    pub(crate) fn publish(&self, layout: &Layout) {
        let mut content = self.shared.content.lock().unwrap();
        for (digest, data) in &layout.blobs {
            let kind = serde_json::from_slice::<serde_json::Value>(data)
                .ok()
                .and_then(|document| document["mediaType"].as_str().map(str::to_owned));
            content.insert(
                digest.to_string(),
                (kind.unwrap_or("application/octet-stream".into()), data.clone()),
            );
        }
        for manifest in &layout.manifests {
            let tag = manifest["annotations"]["org.opencontainers.image.ref.name"]
                .as_str()
                .unwrap();
            let found = content[manifest["digest"].as_str().unwrap()].clone();
            content.insert(tag.to_owned(), found);
        }
    }

    pub(crate) fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.authority)
    }

    /// How often what ends in `part` was asked for.
    pub(crate) fn fetches(&self, part: &str) -> usize {
        self.shared
            .fetched
            .lock()
            .unwrap()
            .get(part)
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn cut(&self, bytes: usize) {
        self.shared.cut.store(bytes, Ordering::SeqCst);
    }

    /// The last piece of every blob waits until this is off again.
    pub(crate) fn hold(&self, held: bool) {
        self.shared.held.store(held, Ordering::SeqCst);
    }

    pub(crate) fn slow(&self, slow: bool) {
        self.shared.slow.store(slow, Ordering::SeqCst);
    }
}

fn serve(stream: &TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        if answer(stream, shared, &lines).is_none() {
            return;
        }
    }
}

/// None to close the connection.
fn answer(mut stream: &TcpStream, shared: &Shared, lines: &[String]) -> Option<()> {
    let path = lines[0].split(' ').nth(1)?;
    let name = path.rsplit('/').next()?.replace("%3A", ":");
    let range = lines.iter().find_map(|l| {
        l.to_ascii_lowercase()
            .strip_prefix("range: bytes=")?
            .split('-')
            .next()?
            .parse()
            .ok()
    });
    let found = shared.content.lock().unwrap().get(&name).cloned();
    let Some((kind, body)) = found else {
        return write!(stream, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").ok();
    };
    *shared.fetched.lock().unwrap().entry(name).or_default() += 1;
    let (from, total) = (range.unwrap_or(0_usize), body.len());
    let status = match range {
        Some(_) => format!("206 Partial\r\nContent-Range: bytes {from}-{}/{total}", total - 1),
        None => "200 OK".to_owned(),
    };
    let length = total - from;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    )
    .ok()?;
    if lines[0].starts_with("HEAD") {
        return Some(());
    }
    let cut = shared.cut.load(Ordering::SeqCst);
    let is_cut = cut > 0 && path.contains("/blobs/") && length > cut;
    let body = &body[from..if is_cut { from + cut } else { total }];
    let pieces = body.chunks(16 * 1024);
    let last = pieces.len().saturating_sub(1);
    for (at, piece) in pieces.enumerate() {
        while at == last && shared.held.load(Ordering::SeqCst) && path.contains("/blobs/") {
            std::thread::sleep(Duration::from_millis(5));
        }
        stream.write_all(piece).ok()?;
        if shared.slow.load(Ordering::SeqCst) && path.contains("/blobs/") {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    if is_cut {
        return stream.shutdown(std::net::Shutdown::Both).ok().filter(|()| false);
    }
    Some(())
}
