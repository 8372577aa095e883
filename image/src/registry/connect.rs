//! Connections: TCP, the proxies of the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`), TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Uri};
use http_body_util::Full;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower::Service;

use super::hosts::is_loopback;
use crate::limits::{CONNECT_TIMEOUT, IDLE_CONNECTIONS_MAX, IDLE_TIMEOUT};

/// An HTTP client with its pool.
pub(super) type Client = legacy::Client<HttpsConnector<Dialer>, Full<Bytes>>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A client that uses `tls` where the scheme is https.
pub(super) fn client(tls: ClientConfig, proxies: &Proxies) -> Client {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(Dialer::new(proxies.clone()));
    legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .pool_timer(TokioTimer::new())
        .build(connector)
}

/// The proxies that the environment names. Loopback is never asked for through one, as in Go.
#[derive(Clone)]
pub(super) struct Proxies(Arc<Matcher>);

impl Proxies {
    pub(super) fn from_env() -> Self {
        Self(Arc::new(Matcher::from_env()))
    }

    fn of(&self, target: &Uri) -> Option<hyper_util::client::proxy::matcher::Intercept> {
        let authority = target.authority()?;
        if is_loopback(authority.as_str()) {
            None
        } else {
            self.0.intercept(target)
        }
    }

    /// What a plain http request must carry for its proxy; TLS connections tell it while they are made.
    pub(super) fn authorization(&self, target: &Uri) -> Option<HeaderValue> {
        if target.scheme() != Some(&http::uri::Scheme::HTTP) {
            return None;
        }
        self.of(target)?.basic_auth().cloned()
    }
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proxies")
    }
}

/// Makes TCP connections, to the target or its proxy.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    tcp: HttpConnector,
    proxies: Proxies,
}

impl Dialer {
    fn new(proxies: Proxies) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(IDLE_TIMEOUT));
        Self { tcp, proxies }
    }
}

impl Service<Uri> for Dialer {
    type Response = Link;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Link, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let mut tcp = self.tcp.clone();
        let Some(proxy) = self.proxies.of(&target) else {
            let connecting = tcp.call(target);
            return Box::pin(async {
                Ok(Link {
                    stream: connecting.await?,
                    to_proxy: false,
                })
            });
        };
        Box::pin(async move {
            if proxy.uri().scheme() != Some(&http::uri::Scheme::HTTP) {
                return Err("only http proxies are supported".into());
            }
            if target.scheme() == Some(&http::uri::Scheme::HTTP) {
                return Ok(Link {
                    stream: tcp.call(proxy.uri().clone()).await?,
                    to_proxy: true,
                });
            }
            let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
            if let Some(authorization) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(authorization.clone());
            }
            Ok(Link {
                stream: tunnel.call(target).await?,
                to_proxy: false,
            })
        })
    }
}

/// A TCP connection that knows whether requests on it are for a proxy, and need their whole URL.
#[derive(Debug)]
pub(super) struct Link {
    stream: TokioIo<TcpStream>,
    to_proxy: bool,
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        self.stream.inner().connected().proxy(self.to_proxy)
    }
}

impl Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}
