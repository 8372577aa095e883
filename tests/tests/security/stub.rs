//! A registry that says what a test wants it to say, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use criquet_tests::{Node, cri, image};

use crate::hostile::{Image, MANIFEST, digest};

/// What was asked: the request line and all headers.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) headers: String,
}

/// What is answered.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Bytes that are announced and never come.
    pub(crate) missing: usize,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            body: body.into(),
            missing: 0,
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Announces more than it sends, and falls silent.
    pub(crate) fn stalled(mut self) -> Reply {
        self.missing = 1000;
        self
    }
}

type Script = dyn Fn(&Asked) -> Option<Reply> + Send + Sync;

/// Listens on an address of loopback in the test's network namespace; its threads end with the process.
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Stub {
    /// `script` answers first; what it leaves alone is looked up in `content`, by the last part of the path.
    pub(crate) fn start(
        content: BTreeMap<String, (String, Vec<u8>)>,
        script: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
    ) -> Stub {
        Stub::at("127.0.0.1", content, script)
    }

    /// At another of the node's addresses.
    pub(crate) fn at(
        host: &str,
        content: BTreeMap<String, (String, Vec<u8>)>,
        script: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
    ) -> Stub {
        let listener = TcpListener::bind((host, 0)).expect("listen");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, script): (_, Arc<Script>) = (Arc::clone(&asked), Arc::new(script));
        let content = Arc::new(content);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, script, content) = (Arc::clone(&log), Arc::clone(&script), Arc::clone(&content));
                std::thread::spawn(move || serve(&stream, &log, &*script, &content));
            }
        });
        Stub { address, asked }
    }

    /// Serves one image under every tag.
    pub(crate) fn of(image: &Image) -> Stub {
        Stub::start(contents(image), |_| None)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("asked").clone()
    }

    /// PullImage of `NAME` from here.
    #[allow(clippy::result_large_err)]
    pub(crate) fn pull(
        &self,
        node: &Node,
        name: &str,
        auth: Option<cri::AuthConfig>,
    ) -> Result<String, tonic::Status> {
        let request = cri::PullImageRequest {
            image: Some(image(&format!("{}/{name}", self.address))),
            auth,
            ..Default::default()
        };
        node.cri().pull_image(request).map(|answer| answer.image_ref)
    }
}

/// An image's blobs by digest, and its manifest by digest and as tag 1.
pub(crate) fn contents(image: &Image) -> BTreeMap<String, (String, Vec<u8>)> {
    let plain = "application/octet-stream".to_string();
    let mut content: BTreeMap<String, (String, Vec<u8>)> = image
        .blobs
        .iter()
        .map(|(digest, bytes)| (digest.clone(), (plain.clone(), bytes.clone())))
        .collect();
    let manifest = image.manifest_bytes();
    for name in [digest(&manifest), "1".to_string()] {
        content.insert(name, (MANIFEST.to_string(), manifest.clone()));
    }
    content
}

fn serve(
    stream: &TcpStream,
    log: &Mutex<Vec<Asked>>,
    script: &Script,
    content: &BTreeMap<String, (String, Vec<u8>)>,
) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_string()),
            }
        }
        let Some((line, headers)) = lines.split_first() else {
            return;
        };
        let asked = Asked {
            line: line.clone(),
            headers: headers.join("\n"),
        };
        log.lock().expect("asked").push(asked.clone());
        let reply = script(&asked).unwrap_or_else(|| look_up(&asked, content));
        if answer(stream, &asked, &reply).is_err() {
            return;
        }
    }
}

fn look_up(asked: &Asked, content: &BTreeMap<String, (String, Vec<u8>)>) -> Reply {
    let path = asked.line.split(' ').nth(1).unwrap_or_default();
    if path == "/v2/" {
        return Reply::new(200, "{}");
    }
    let name = path.rsplit('/').next().unwrap_or_default().replace("%3A", ":");
    match content.get(&name) {
        Some((kind, body)) => Reply::new(200, body.clone()).with("Content-Type", kind.clone()),
        None => Reply::new(404, "{}"),
    }
}

fn answer(mut stream: &TcpStream, asked: &Asked, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {} Status\r\nContent-Length: {}\r\n",
        reply.status,
        reply.body.len()
    );
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if asked.line.starts_with("HEAD") {
        return Ok(());
    }
    stream.write_all(&reply.body)?;
    if reply.missing > 0 {
        // Until the other side gives up.
        stream.read_exact(&mut [0])?;
    }
    Ok(())
}
