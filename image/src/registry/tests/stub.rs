//! A registry that answers as a closure tells it, and remembers what it was asked.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What the stub was asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// What it answers.
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

enum Body {
    Whole(Bytes),
    /// These bytes, and then the connection breaks.
    Broken(Bytes),
    /// These bytes, and then nothing.
    Stalled(Bytes),
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Body::Whole(body.into()),
        }
    }

    pub(super) fn ok(body: impl Into<Bytes>) -> Self {
        Self::new(200, body)
    }

    pub(super) fn redirect(to: impl Into<String>) -> Self {
        Self::new(307, "").with("location", to)
    }

    pub(super) fn challenge(text: impl Into<String>) -> Self {
        Self::new(
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#,
        )
        .with("www-authenticate", text)
    }

    /// `body` says that it is `length` bytes.
    pub(super) fn broken(body: &[u8], length: usize) -> Self {
        let body = Body::Broken(Bytes::copy_from_slice(body));
        Self {
            status: 200,
            headers: vec![],
            body,
        }
        .with("content-length", length.to_string())
    }

    pub(super) fn stalled(body: &[u8], length: usize) -> Self {
        let body = Body::Stalled(Bytes::copy_from_slice(body));
        Self {
            status: 200,
            headers: vec![],
            body,
        }
        .with("content-length", length.to_string())
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(super) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    fn into_response(self) -> Response<BoxBody<Bytes, io::Error>> {
        let mut builder = Response::builder().status(self.status);
        for (name, value) in self.headers {
            builder = builder.header(name, value);
        }
        let pieces: Pieces = match self.body {
            Body::Whole(bytes) => {
                return builder
                    .body(http_body_util::Full::new(bytes).map_err(never).boxed())
                    .unwrap();
            }
            Body::Broken(bytes) => Box::pin(stream::iter([Ok(bytes)]).chain(stream::once(async {
                // Else the bytes would not be sent at all.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(io::Error::other("broken"))
            }))),
            Body::Stalled(bytes) => Box::pin(stream::iter([Ok(bytes)]).chain(stream::pending())),
        };
        builder
            .body(BodyExt::boxed(StreamBody::new(
                pieces.map(|p| p.map(Frame::data)),
            )))
            .unwrap()
    }
}

type Pieces = std::pin::Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send + Sync>>;

fn never(error: Infallible) -> io::Error {
    match error {}
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

/// The running stub; stops with the test's runtime.
pub(super) struct Stub {
    /// `127.0.0.1:port`.
    pub(super) authority: String,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Stub {
    pub(super) async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::run(script, None).await
    }

    /// With TLS, and with `clients` only for those that have a certificate.
    pub(super) async fn start_tls(
        clients: bool,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::run(script, Some(super::acceptor(clients))).await
    }

    async fn run(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (script, kept): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&log));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, log, tls) = (Arc::clone(&script), Arc::clone(&log), tls.clone());
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(request, &script, &log));
                    let server = hyper::server::conn::http1::Builder::new();
                    // A client that goes away in the middle is what some tests are about.
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                _ = server.serve_connection(TokioIo::new(stream), service).await;
                            }
                        }
                        None => _ = server.serve_connection(TokioIo::new(stream), service).await,
                    }
                });
            }
        });
        Self { authority, log: kept }
    }

    /// All that was asked so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }

    /// The paths that were asked for, without repository.
    pub(super) fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|a| a.path).collect()
    }
}

async fn answer(
    request: Request<Incoming>,
    script: &Arc<Script>,
    log: &Mutex<Vec<Asked>>,
) -> Result<Response<BoxBody<Bytes, io::Error>>, io::Error> {
    let (parts, body) = request.into_parts();
    let body = tokio::time::timeout(super::PATIENCE, body.collect()).await;
    let body = body
        .map_err(io::Error::other)?
        .map_err(io::Error::other)?
        .to_bytes();
    let asked = Asked {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    log.lock().unwrap().push(asked.clone());
    Ok(script(&asked).into_response())
}
