//! The server itself: tokens, limits, TLS, and what is left after sessions.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::fake::{FOREVER, Fake, exec, options, wait_for};
use crate::spdy::{Client, request, upgrade};
use criquet_stream::{Server, Session};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const FIXTURES: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/streaming/first.pem"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/streaming/second.pem"),
];

#[tokio::test]
async fn a_url_is_good_once_and_for_its_own_kind() {
    let server = Server::start(options(), Arc::new(Fake::default())).await.unwrap();
    let url = server.url(exec(&["true"], false, false)).unwrap();
    drop(Client::connect(&url, "v4.channel.k8s.io").await);
    let (answer, _) = request(&url, &upgrade("v4.channel.k8s.io"), "POST").await;
    assert!(answer.starts_with("http/1.1 404"), "{answer}");
    let url = server
        .url(exec(&["true"], false, false))
        .unwrap()
        .replace("/exec/", "/attach/");
    let (answer, _) = request(&url, &upgrade("v4.channel.k8s.io"), "POST").await;
    assert!(answer.starts_with("http/1.1 404"), "{answer}");
    let mut short = options();
    short.token_lifetime = Duration::ZERO;
    let server = Server::start(short, Arc::new(Fake::default())).await.unwrap();
    let url = server.url(exec(&["true"], false, false)).unwrap();
    let (answer, _) = request(&url, &upgrade("v4.channel.k8s.io"), "GET").await;
    assert!(answer.starts_with("http/1.1 404"), "{answer}");
}

#[tokio::test]
async fn one_session_too_many_is_turned_away() {
    let mut options = options();
    options.sessions_max = 1;
    let server = Server::start(options, Arc::new(Fake::default())).await.unwrap();
    let first = Client::connect(
        &server.url(exec(&["cat"], false, true)).unwrap(),
        "v4.channel.k8s.io",
    )
    .await;
    assert_eq!(server.sessions(), 1);
    let url = server.url(exec(&["true"], false, false)).unwrap();
    let (answer, _) = request(&url, &upgrade("v4.channel.k8s.io"), "POST").await;
    assert!(answer.starts_with("http/1.1 503"), "{answer}");
    drop(first);
    wait_for("the first session ends", || server.sessions() == 0).await;
    // The url was not used up.
    drop(Client::connect(&url, "v4.channel.k8s.io").await);
}

#[tokio::test]
async fn requests_that_cannot_be_served() {
    let server = Server::start(options(), Arc::new(Fake::default())).await.unwrap();
    let url = || server.url(exec(&["true"], false, false)).unwrap();
    let forward = || {
        server
            .url(Session::PortForward {
                sandbox: "s".into(),
                ports: vec![],
            })
            .unwrap()
    };
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let table = [
        (url(), String::new(), "GET", "400"),
        (url(), upgrade("v9.channel.k8s.io"), "POST", "403"),
        (url(), upgrade("v4.channel.k8s.io"), "PUT", "405"),
        (url(), format!("X: {}\r\n", "x".repeat(70_000)), "GET", "431"),
        (forward(), websocket.to_owned(), "GET", "400"),
    ];
    for (url, headers, method, want) in table {
        let (answer, _) = request(&url, &headers, method).await;
        assert!(
            answer.starts_with(&format!("http/1.1 {want}")),
            "{want}: {answer}"
        );
    }
    // A refused request may hold its place until it is answered.
    wait_for("no session is left", || server.sessions() == 0).await;
}

#[tokio::test]
async fn dropped_sessions_leave_nothing() {
    let fake = Arc::new(Fake::default());
    let server = Server::start(options(), Arc::clone(&fake)).await.unwrap();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut before = (0, 0);
    for round in 0..200 {
        if round == 10 {
            wait_for("the first sessions end", || server.sessions() == 0).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            before = (descriptors(), tasks());
        }
        let url = server.url(exec(&["sleep", FOREVER], false, false)).unwrap();
        let mut client = Client::connect(&url, "v4.channel.k8s.io").await;
        for (stream, kind) in [(1, "error"), (3, "stdout"), (5, "stderr")] {
            client.open(stream, &[("streamtype", kind)]).await;
            if round % 3 == 0 {
                break;
            }
            client.next().await.unwrap();
        }
    }
    wait_for("sessions end", || {
        server.sessions() == 0 && fake.running.load(Ordering::SeqCst) == 0
    })
    .await;
    wait_for("tasks end", || tasks() <= before.1).await;
    // Other tests of this process open descriptors too, but do not keep them.
    wait_for("descriptors are closed", || descriptors() < before.0 + 50).await;
}

#[tokio::test]
async fn frames_may_follow_the_request_at_once() {
    let server = Server::start(options(), Arc::new(Fake::default())).await.unwrap();
    let url = server.url(exec(&["true"], false, false)).unwrap();
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /{path} HTTP/1.1\r\nHost: x\r\n{}\r\n",
        upgrade("v4.channel.k8s.io")
    );
    let ping = crate::spdy::control(6, &[0, 0, 0, 1]);
    socket
        .write_all(&[head.as_bytes(), &ping].concat())
        .await
        .unwrap();
    let mut got = Vec::new();
    while !got.ends_with(&ping) {
        assert_ne!(
            socket.read_buf(&mut got).await.unwrap(),
            0,
            "no answer to the ping"
        );
    }
}

#[tokio::test]
async fn closing_ends_all() {
    let fake = Arc::new(Fake::default());
    let server = Server::start(options(), Arc::clone(&fake)).await.unwrap();
    let url = server.url(exec(&["sleep", FOREVER], false, false)).unwrap();
    let mut client = Client::connect(&url, "v4.channel.k8s.io").await;
    for (stream, kind) in [(1, "error"), (3, "stdout"), (5, "stderr")] {
        client.open(stream, &[("streamtype", kind)]).await;
    }
    wait_for("the process runs", || fake.running.load(Ordering::SeqCst) == 1).await;
    server.close().await;
    assert_eq!(fake.running.load(Ordering::SeqCst), 0);
    while client.next().await.is_some() {}
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "still listening");
    server.close().await;
}

#[tokio::test]
async fn silent_connections_do_not_keep_others_out() {
    let server = Server::start(options(), Arc::new(Fake::default())).await.unwrap();
    let url = server.url(exec(&["true"], false, false)).unwrap();
    let address = url
        .strip_prefix("http://")
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        socket.write_all(b"GET /exec/").await.unwrap();
        silent.push(socket);
    }
    drop(Client::connect(&url, "v4.channel.k8s.io").await);
    // They have not been thrown out to make room.
    let mut byte = [0];
    let last = silent.last().unwrap().try_read(&mut byte).unwrap_err();
    assert_eq!(last.kind(), std::io::ErrorKind::WouldBlock);
}

async fn tls_answer(url: &str, fixture: &str) -> std::io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(fixture).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (address, path) = url.strip_prefix("https://").unwrap().split_once('/').unwrap();
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut socket = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await?;
    let head = format!(
        "POST /{path} HTTP/1.1\r\nHost: x\r\n{}\r\n",
        upgrade("v4.channel.k8s.io")
    );
    socket.write_all(head.as_bytes()).await?;
    let mut answer = vec![0; 12];
    socket.read_exact(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

/// `seconds` makes this version another one than that before, whatever the clock's steps.
fn place(fixture: &str, at: &Path, seconds: u64) {
    let new = at.with_extension("new");
    std::fs::copy(fixture, &new).unwrap();
    let file = std::fs::File::options().write(true).open(&new).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(seconds))
        .unwrap();
    std::fs::rename(new, at).unwrap();
}

#[tokio::test]
async fn tls_takes_up_a_renewed_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("server.pem");
    place(FIXTURES[0], &pem, 1);
    let mut options = options();
    options.tls = Some((pem.clone(), pem.clone()));
    let server = Server::start(options, Arc::new(Fake::default())).await.unwrap();
    let url = || server.url(exec(&["true"], false, false)).unwrap();
    assert_eq!(tls_answer(&url(), FIXTURES[0]).await.unwrap(), "HTTP/1.1 101");
    std::fs::write(&pem, "not a certificate").unwrap();
    assert_eq!(tls_answer(&url(), FIXTURES[0]).await.unwrap(), "HTTP/1.1 101");
    place(FIXTURES[1], &pem, 2);
    assert!(tls_answer(&url(), FIXTURES[0]).await.is_err());
    assert_eq!(tls_answer(&url(), FIXTURES[1]).await.unwrap(), "HTTP/1.1 101");
}

#[tokio::test]
async fn a_start_that_cannot_work_says_why() {
    let mut wrong = options();
    wrong.tls = Some(("/nonexistent/cert".into(), "/nonexistent/key".into()));
    let error = Server::start(wrong, Arc::new(Fake::default())).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/cert"), "{error}");
    let mut taken = options();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    taken.address = listener.local_addr().unwrap();
    let error = Server::start(taken, Arc::new(Fake::default())).await.unwrap_err();
    assert!(error.to_string().contains("listen on"), "{error}");
}
