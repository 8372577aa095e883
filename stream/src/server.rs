//! The listener, and the way of a connection from HTTP to a session.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::request::{self, Kind, Protocol, Refusal};
use crate::session::{self, Times};
use crate::tls::Certificate;
use crate::token::Tokens;
use crate::{Backend, Options, Session};

/// From the accept to the whole request, TLS included. A kubelet needs a few milliseconds.
const REQUEST: Duration = Duration::from_secs(10);

/// Connections that have not made their request yet. More wait in the kernel's queue: a flood of them takes
/// neither descriptors nor memory, and [`REQUEST`] frees the places.
const PENDING_MAX: usize = 128;

/// A request of ours is a line and some ten headers; a token needs no more, and a kubelet's headers fit.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// Pause after a failed accept: out of descriptors, say. Trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that wait in the kernel. The kernel cuts it to `net.core.somaxconn`.
const BACKLOG: u32 = 1024;

/// The streaming server. Cheap to clone; when the last clone is dropped, it ends with all its sessions.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    base: String,
    stop: CancellationToken,
    listener: Mutex<Option<JoinHandle<()>>>,
}

/// What connections need of the server. They hold this, and not the server, which ends them when it is dropped.
struct Shared {
    tokens: Mutex<Tokens>,
    slots: Arc<Semaphore>,
    sessions_max: usize,
    times: Times,
    certificate: Option<Certificate>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sessions = self.sessions();
        f.debug_struct("Server")
            .field("base", &self.inner.base)
            .field("sessions", &sessions)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Server {
    /// Listens; sessions run on tasks of the server until it is dropped or [`Server::close`]d.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the certificate or key cannot be read.
    pub async fn start<B: Backend>(options: Options, backend: Arc<B>) -> io::Result<Self> {
        let certificate = match options.tls {
            Some((chain, key)) => Some(tokio::task::spawn_blocking(|| Certificate::load(chain, key)).await??),
            None => None,
        };
        let listener = listen(options.address).map_err(|error| {
            io::Error::new(error.kind(), format!("listen on {}: {error}", options.address))
        })?;
        let scheme = if certificate.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{}", listener.local_addr()?);
        let sessions_max = options.sessions_max.min(Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            tokens: Mutex::new(Tokens::new(options.token_lifetime)),
            slots: Arc::new(Semaphore::new(sessions_max)),
            sessions_max,
            times: Times {
                idle: options.idle_timeout,
                creation: options.creation_timeout,
            },
            certificate,
        });
        let stop = CancellationToken::new();
        let task = tokio::spawn(accept(listener, Arc::clone(&shared), backend, stop.clone()));
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                base,
                stop,
                listener: Mutex::new(Some(task)),
            }),
        })
    }

    /// A URL for `session`, good once, for `token_lifetime`.
    ///
    /// # Errors
    /// [`io::ErrorKind::QuotaExceeded`] when too many URLs wait for their client.
    pub fn url(&self, session: Session) -> io::Result<String> {
        let kind = match session {
            Session::Exec { .. } => "exec",
            Session::Attach { .. } => "attach",
            Session::PortForward { .. } => "portforward",
        };
        let token = self
            .inner
            .shared
            .tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(session)?;
        Ok(format!("{}/{kind}/{token}", self.inner.base))
    }

    /// Sessions under way.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.inner.shared.sessions_max - self.inner.shared.slots.available_permits()
    }

    /// Ends every session and stops listening. Returns when all is gone; a second call returns at once.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        let task = self
            .inner
            .listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "streaming listener failed");
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    // Accepted sockets inherit it: a client whose machine vanished is noticed in the end.
    socket.set_keepalive(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept<B: Backend>(
    listener: TcpListener,
    shared: Arc<Shared>,
    backend: Arc<B>,
    stop: CancellationToken,
) {
    let pending = Arc::new(Semaphore::new(PENDING_MAX));
    let mut connections = JoinSet::new();
    let next = async || {
        let place = Arc::clone(&pending)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let (socket, peer) = listener.accept().await?;
        Ok::<_, io::Error>((place, socket, peer))
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "streaming connection failed");
                }
            }
            accepted = next() => match accepted {
                Ok((place, socket, peer)) => {
                    let connection = connection(socket, place, Arc::clone(&shared), Arc::clone(&backend));
                    connections.spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, %peer, "streaming request failed");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a streaming connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

/// A request that was granted.
struct Granted {
    session: Session,
    protocol: Protocol,
    upgrade: OnUpgrade,
    slot: OwnedSemaphorePermit,
}

async fn connection<B: Backend>(
    socket: TcpStream,
    place: OwnedSemaphorePermit,
    shared: Arc<Shared>,
    backend: Arc<B>,
) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no request in time");
    let granted = match shared.certificate.as_ref().map(Certificate::acceptor) {
        Some(acceptor) => {
            let handshake = async { request(acceptor.accept(socket).await?, &shared).await };
            tokio::time::timeout(REQUEST, handshake).await.map_err(late)??
        }
        None => tokio::time::timeout(REQUEST, request(socket, &shared))
            .await
            .map_err(late)??,
    };
    drop(place);
    let Some(Granted {
        session,
        protocol,
        upgrade,
        slot,
    }) = granted
    else {
        return Ok(());
    };
    let upgraded = upgrade.await.map_err(io::Error::other)?;
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        // Nothing was read ahead, as is the rule: the socket itself serves better than its wrapping.
        Ok(parts) if parts.read_buf.is_empty() => {
            session::run(parts.io.into_inner(), session, protocol, backend, shared.times).await;
        }
        Ok(parts) => {
            let (from, to) = parts.io.into_inner().into_split();
            let io = tokio::io::join(io::Cursor::new(parts.read_buf).chain(from), to);
            session::run(io, session, protocol, backend, shared.times).await;
        }
        Err(upgraded) => {
            session::run(
                TokioIo::<Upgraded>::new(upgraded),
                session,
                protocol,
                backend,
                shared.times,
            )
            .await
        }
    }
    drop(slot);
    Ok(())
}

/// Serves requests until one is granted; none when the client left without.
async fn request<I>(io: I, shared: &Arc<Shared>) -> io::Result<Option<Granted>>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let granted = Arc::new(Mutex::new(None));
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let response = match grant(request, shared) {
            Ok((response, grant)) => {
                *granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(grant);
                response
            }
            Err(refusal) => refuse(refusal),
        };
        std::future::ready(Ok::<_, Infallible>(response))
    });
    hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)?;
    Ok(granted.lock().unwrap_or_else(PoisonError::into_inner).take())
}

fn grant(
    mut request: Request<Incoming>,
    shared: &Shared,
) -> Result<(Response<Full<Bytes>>, Granted), Refusal> {
    let not_found = || {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "no such streaming url, or it was used or is too old",
        )
    };
    let (kind, token) = request::route(request.uri().path()).ok_or_else(not_found)?;
    let Ok(slot) = Arc::clone(&shared.slots).try_acquire_owned() else {
        let message = format!(
            "{} streaming sessions are under way, which is the limit",
            shared.sessions_max
        );
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message));
    };
    let session = shared
        .tokens
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take(token)
        .ok_or_else(not_found)?;
    let mut session = match (kind, session) {
        (Kind::Exec, session @ Session::Exec { .. })
        | (Kind::Attach, session @ Session::Attach { .. })
        | (Kind::PortForward, session @ Session::PortForward { .. }) => session,
        _ => return Err(not_found()),
    };
    let (protocol, headers) = request::negotiate(request.method(), request.headers(), kind)?;
    if let (Protocol::ChannelsForward { .. }, Session::PortForward { ports, .. }) = (protocol, &mut session) {
        if ports.is_empty() {
            *ports = request::query_ports(request.uri().query().unwrap_or_default()).unwrap_or_default();
        }
        // A channel's number is one byte.
        if ports.is_empty() || ports.len() > 127 {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "want 1 to 127 ports, as port=N",
            ));
        }
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    Ok((
        response,
        Granted {
            session,
            protocol,
            upgrade,
            slot,
        },
    ))
}

fn refuse(refusal: Refusal) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(refusal.message + "\n"));
    *response.status_mut() = refusal.status;
    for (name, value) in refusal.headers {
        response
            .headers_mut()
            .append(name, HeaderValue::from_static(value));
    }
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
