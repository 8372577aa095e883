//! Port-forward: pairs of streams, each pair one connection into the pod.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::Backend;
use crate::inbox::Inbox;
use crate::outbox::{Gone, Outbox, PIECE};
use crate::spdy::NewStream;
use crate::spdy::frame::{CANCEL, PROTOCOL_ERROR};
use crate::spdy::header;

/// Streams at once in one session: a browser opens six connections per host, a load test some hundred; each takes
/// two streams here and a socket in the pod.
pub(crate) const STREAMS_MAX: usize = 1024;

/// A connect inside the pod goes over loopback: it is refused or accepted at once, or something is stuck.
const CONNECT: Duration = Duration::from_secs(30);

/// When the pod's side has sent all, the client may still be sending, or may have forgotten the stream.
const HALF_CLOSED: Duration = Duration::from_secs(60);

/// An id is a small number in text. Longer ones would let a client fill our memory.
const REQUEST_ID_MAX: usize = 64;

/// The two streams of one connection.
#[derive(Debug)]
struct Pair {
    port: u16,
    data: u32,
    error: u32,
    inbox: Inbox,
    reset: oneshot::Receiver<()>,
}

/// A stream that waits for its other half.
#[derive(Debug)]
struct Half {
    port: u16,
    is_data: bool,
    stream: NewStream,
    expiry: Instant,
}

/// Serves pairs of SPDY streams for as long as the client opens them.
pub(crate) async fn spdy<B: Backend>(
    backend: &B,
    sandbox: &str,
    mut opened: mpsc::Receiver<NewStream>,
    out: &Outbox,
    creation_timeout: Duration,
) -> Result<(), Gone> {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut pairs = FuturesUnordered::new();
    loop {
        let expiry = halves.values().map(|half| half.expiry).min();
        tokio::select! {
            stream = opened.recv() => {
                let Some(stream) = stream else { return Ok(()) };
                if let Some(pair) = admit(stream, &mut halves, out, creation_timeout).await? {
                    pairs.push(forward(backend, sandbox, pair, out));
                }
            }
            Some(result) = pairs.next() => result?,
            () = sleep_until(expiry) => expire(&mut halves, out).await?,
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Takes up a new stream; gives the pair that it completes.
async fn admit(
    stream: NewStream,
    halves: &mut HashMap<String, Half>,
    out: &Outbox,
    creation_timeout: Duration,
) -> Result<Option<Pair>, Gone> {
    let Some((port, is_data, request)) = describe(&stream) else {
        out.reset(stream.id, PROTOCOL_ERROR).await?;
        return Ok(None);
    };
    let Some(other) = halves.remove(&request) else {
        let expiry = Instant::now() + creation_timeout;
        halves.insert(
            request,
            Half {
                port,
                is_data,
                stream,
                expiry,
            },
        );
        return Ok(None);
    };
    if other.is_data == is_data {
        out.reset(stream.id, PROTOCOL_ERROR).await?;
        halves.insert(request, other);
        return Ok(None);
    }
    let port = if is_data { port } else { other.port };
    let (data, error) = if is_data {
        (stream, other.stream)
    } else {
        (other.stream, stream)
    };
    Ok(Some(Pair {
        port,
        data: data.id,
        error: error.id,
        inbox: data.inbox,
        reset: data.reset,
    }))
}

/// The port, whether it is the data stream, and the id that it shares with its other half.
fn describe(stream: &NewStream) -> Option<(u16, bool, String)> {
    let port = header::value(&stream.headers, "port")?
        .parse()
        .ok()
        .filter(|port| *port > 0)?;
    let is_data = match header::value(&stream.headers, "streamtype")? {
        "data" => true,
        "error" => false,
        _ => return None,
    };
    let request = match header::value(&stream.headers, "requestid") {
        Some(id) if id.len() > REQUEST_ID_MAX => return None,
        Some(id) if !id.is_empty() => id.to_owned(),
        // Clients before Kubernetes 1.2 send none: error is opened first, data right after it.
        _ => format!(
            "stream {}",
            if is_data {
                stream.id.saturating_sub(2)
            } else {
                stream.id
            }
        ),
    };
    Some((port, is_data, request))
}

async fn expire(halves: &mut HashMap<String, Half>, out: &Outbox) -> Result<(), Gone> {
    let now = Instant::now();
    for (_, half) in halves.extract_if(|_, half| half.expiry <= now) {
        if !half.is_data {
            out.data(half.stream.id, b"timed out waiting for the data stream")
                .await?;
            out.finish(half.stream.id).await?;
        }
        out.reset(half.stream.id, CANCEL).await?;
    }
    Ok(())
}

/// Connects one pair. What goes wrong is said on its error stream and ends nothing else.
async fn forward<B: Backend>(backend: &B, sandbox: &str, pair: Pair, out: &Outbox) -> Result<(), Gone> {
    let Pair {
        port,
        data,
        error,
        inbox,
        reset,
    } = pair;
    match connect(backend, sandbox, port).await {
        Ok(socket) => {
            let reset = async {
                if reset.await.is_err() {
                    std::future::pending().await
                }
            };
            tokio::select! {
                result = copy(socket, inbox, data, error, out) => result?,
                () = reset => {}
            }
            out.finish(data).await?;
            out.finish(error).await
        }
        Err(why) => {
            let why = format!("error forwarding port {port} to pod {sandbox}: {why}");
            tracing::debug!("{why}");
            out.data(error, why.as_bytes()).await?;
            out.finish(error).await?;
            out.reset(data, CANCEL).await
        }
    }
}

async fn connect<B: Backend>(backend: &B, sandbox: &str, port: u16) -> Result<TcpStream, String> {
    let socket = tokio::time::timeout(CONNECT, backend.connect(sandbox, port))
        .await
        .map_err(|_| format!("no connection within {} s", CONNECT.as_secs()))??;
    socket
        .set_nonblocking(true)
        .and_then(|()| socket.set_nodelay(true))
        .and_then(|()| TcpStream::from_std(socket))
        .map_err(|error| format!("use the connected socket: {error}"))
}

/// Moves bytes both ways until both have ended. A connection that breaks is an end like any other: telling the
/// client of it as an error would make kubectl drop the whole session (kubernetes#74551).
async fn copy(socket: TcpStream, inbox: Inbox, data: u32, error: u32, out: &Outbox) -> Result<(), Gone> {
    let (from, to) = socket.into_split();
    let mut up = pin!(up(to, inbox));
    let mut up_ended = false;
    let down = async {
        down(&from, data, out).await?;
        out.finish(data).await?;
        // Clients wait for the end of the error stream before they leave the data stream.
        out.finish(error).await
    };
    let mut down = pin!(down);
    loop {
        tokio::select! {
            result = &mut down => {
                result?;
                break;
            }
            () = &mut up, if !up_ended => up_ended = true,
        }
    }
    if !up_ended && out.half_closes() {
        // Over time is over: the socket closes.
        drop(tokio::time::timeout(HALF_CLOSED, up).await);
    }
    Ok(())
}

async fn up(mut to: OwnedWriteHalf, mut inbox: Inbox) {
    while let Some(bytes) = inbox.recv().await {
        if let Err(error) = to.write_all(&bytes).await {
            tracing::debug!(%error, "the pod takes no more on a forwarded port");
            return;
        }
    }
    // The pod's end may have closed before ours.
    drop(to.shutdown().await);
}

async fn down(from: &OwnedReadHalf, data: u32, out: &Outbox) -> Result<(), Gone> {
    loop {
        if from.readable().await.is_err() {
            return Ok(());
        }
        let mut piece = vec![0; PIECE];
        loop {
            match from.try_read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(read) => out.data(data, &piece[..read]).await?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::debug!(%error, "the pod broke off a forwarded connection");
                    return Ok(());
                }
            }
        }
    }
}

/// Serves one connection per port over WebSocket channels: data 2n, error 2n + 1. Each begins with the port, in
/// little endian.
pub(crate) async fn websocket<B: Backend>(
    backend: &B,
    sandbox: &str,
    ports: Vec<(u16, Inbox)>,
    out: &Outbox,
) -> Result<(), Gone> {
    let mut pairs = FuturesUnordered::new();
    for (index, (port, inbox)) in (0u32..).zip(ports) {
        let (data, error) = (index * 2, index * 2 + 1);
        out.data(data, &port.to_le_bytes()).await?;
        out.data(error, &port.to_le_bytes()).await?;
        // Nobody resets a channel: the sender is dropped, and only a value counts.
        let (_, reset) = oneshot::channel();
        pairs.push(forward(
            backend,
            sandbox,
            Pair {
                port,
                data,
                error,
                inbox,
                reset,
            },
            out,
        ));
    }
    while let Some(result) = pairs.next().await {
        result?;
    }
    Ok(())
}
