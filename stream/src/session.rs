//! One upgraded connection, from the first of its streams to the last byte.
//!
//! A session is one task without children: reader, writer and the work itself are futures of it, so that dropping
//! the task drops them all, with every descriptor and the [`crate::Running`].

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::activity::Activity;
use crate::exec::{self, Streams};
use crate::outbox::{self, Encoding, Outbox, PIECE};
use crate::request::Protocol;
use crate::spdy::frame::REFUSED_STREAM;
use crate::spdy::{self, NewStream, Table, header};
use crate::status::Form;
use crate::websocket::channels::Channels;
use crate::{Backend, Session, inbox, portforward, websocket};

/// Streams of a command: five, and some to be refused politely.
const COMMAND_STREAMS_MAX: usize = 8;

/// When we have said all, the client gets this long to hang up. Closing first, with bytes of the client's unread,
/// would reset the connection and take our last bytes with it.
const LINGER: Duration = Duration::from_secs(2);

/// RFC 6455: a normal closure. Clients take any other for an error.
const CLOSE_NORMAL: u16 = 1000;

/// Times of [`crate::Options`] that a session needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) idle: Duration,
    pub(crate) creation: Duration,
}

/// Both directions of the client's connection.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

/// Serves `session` over `io`. A protocol that does not fit the session ends at once; `server` never asks for that.
pub(crate) async fn run<B: Backend>(
    io: impl Io,
    session: Session,
    protocol: Protocol,
    backend: Arc<B>,
    times: Times,
) {
    let activity = Activity::new();
    match (protocol, session) {
        (Protocol::SpdyCommand { form, resize }, session) => {
            Box::pin(spdy_command(
                io, session, form, resize, &*backend, times, &activity,
            ))
            .await;
        }
        (
            Protocol::Channels {
                base64,
                form,
                close_signal,
            },
            session,
        ) => {
            let channels = Channels::new(base64, close_signal);
            let encoding = if base64 {
                Encoding::Base64
            } else {
                Encoding::Binary
            };
            Box::pin(channel_command(
                io, session, channels, encoding, form, &*backend, times, &activity,
            ))
            .await;
        }
        (Protocol::SpdyForward, Session::PortForward { sandbox, .. }) => {
            Box::pin(spdy_forward(io, &sandbox, &*backend, times, &activity)).await;
        }
        (Protocol::TunnelForward, Session::PortForward { sandbox, .. }) => {
            Box::pin(tunnel_forward(io, &sandbox, &*backend, times, &activity)).await;
        }
        (Protocol::ChannelsForward { base64 }, Session::PortForward { sandbox, ports }) => {
            Box::pin(channel_forward(
                io, &sandbox, ports, base64, &*backend, times, &activity,
            ))
            .await;
        }
        (protocol, session) => tracing::error!(?protocol, ?session, "protocol and session do not fit"),
    }
}

/// Reads, writes and works at once. Ends when the client leaves; or when the work has ended, all is written, and
/// the client has hung up; or when nothing moves for `idle`.
async fn drive<E: std::error::Error>(
    reader: impl Future<Output = Result<(), E>>,
    writer: impl Future<Output = std::io::Result<()>>,
    work: impl Future<Output = ()>,
    activity: &Activity,
    idle: Duration,
) {
    let mut reader = pin!(reader);
    let mut writer = pin!(writer);
    let gone = {
        // Dropped with this block, whatever ends it: the process of an exec does not outlive its client.
        let work = pin!(work);
        tokio::select! {
            result = &mut reader => Some(result),
            result = &mut writer => return left(result),
            () = work => None,
            () = activity.idle(idle) => {
                tracing::debug!("streaming session ends: idle");
                // The farewell gets a time of its own.
                activity.touch();
                None
            }
        }
    };
    if let Some(result) = gone {
        left(result);
        // A client that said goodbye may wait for ours.
        drop(tokio::time::timeout(LINGER, writer).await);
        return;
    }
    tokio::select! {
        result = &mut reader => return left(result),
        result = &mut writer => if result.is_err() { return left(result) },
        () = activity.idle(idle) => return,
    }
    match tokio::time::timeout(LINGER, reader).await {
        Ok(result) => left(result),
        Err(_) => tracing::debug!("client does not hang up"),
    }
}

fn left<E: std::error::Error>(result: Result<(), E>) {
    if let Err(error) = result {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        tracing::debug!(%error, cause, "streaming client is gone");
    }
}

async fn spdy_command<B: Backend>(
    io: impl Io,
    session: Session,
    form: Form,
    resize: bool,
    backend: &B,
    times: Times,
    activity: &Activity,
) {
    let (from, to) = tokio::io::split(io);
    let table = Table::new(COMMAND_STREAMS_MAX);
    let (out, answers, queues) = outbox::queues(Encoding::Spdy(table.clone()));
    let (opened_in, opened) = mpsc::channel(COMMAND_STREAMS_MAX);
    let reader = spdy::Reader::new(table.clone(), opened_in, answers).run(from, activity);
    let writer = outbox::write(to, queues, || spdy::frame::go_away(table.last()), activity);
    let work = async {
        let wanted = Wanted::of(&session, resize);
        match tokio::time::timeout(times.creation, collect(opened, wanted, form, out)).await {
            Ok(Some(streams)) => exec::run(backend, session, streams).await,
            Ok(None) => {}
            Err(_) => tracing::debug!("client did not open its streams in time"),
        }
    };
    drive(reader, writer, work, activity, times.idle).await;
}

/// The streams that a command needs before it may begin.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    resize: bool,
}

impl Wanted {
    fn of(session: &Session, resize: bool) -> Self {
        match *session {
            Session::Exec {
                tty,
                stdin,
                stdout,
                stderr,
                ..
            }
            | Session::Attach {
                tty,
                stdin,
                stdout,
                stderr,
                ..
            } => {
                // A terminal has one output.
                Self {
                    stdin,
                    stdout,
                    stderr: stderr && !tty,
                    resize: resize && tty,
                }
            }
            Session::PortForward { .. } => Self {
                stdin: false,
                stdout: false,
                stderr: false,
                resize: false,
            },
        }
    }
}

/// Waits for the client's streams. None: the connection ended first.
async fn collect(
    mut opened: mpsc::Receiver<NewStream>,
    wanted: Wanted,
    form: Form,
    out: Outbox,
) -> Option<Streams> {
    let (mut stdin, mut resize, mut stdout, mut stderr, mut error) = (None, None, None, None, None);
    loop {
        let NewStream {
            id, headers, inbox, ..
        } = opened.recv().await?;
        let fits = match header::value(&headers, "streamtype") {
            Some("stdin") if stdin.is_none() => stdin.replace(inbox).is_none(),
            Some("resize") if resize.is_none() => resize.replace(inbox).is_none(),
            Some("stdout") if stdout.is_none() => stdout.replace(id).is_none(),
            Some("stderr") if stderr.is_none() => stderr.replace(id).is_none(),
            Some("error") if error.is_none() => error.replace(id).is_none(),
            _ => false,
        };
        if !fits {
            out.reset(id, REFUSED_STREAM).await.ok()?;
        }
        let there = (stdin.is_some() || !wanted.stdin)
            && (stdout.is_some() || !wanted.stdout)
            && (stderr.is_some() || !wanted.stderr)
            && (resize.is_some() || !wanted.resize);
        if let Some(error) = error
            && there
        {
            return Some(Streams {
                stdin,
                resize,
                stdout,
                stderr,
                error,
                form,
                out,
            });
        }
    }
}

async fn spdy_forward<B: Backend>(
    io: impl Io,
    sandbox: &str,
    backend: &B,
    times: Times,
    activity: &Activity,
) {
    let (from, to) = tokio::io::split(io);
    let table = Table::new(portforward::STREAMS_MAX);
    let (out, answers, queues) = outbox::queues(Encoding::Spdy(table.clone()));
    let (opened_in, opened) = mpsc::channel(COMMAND_STREAMS_MAX);
    let reader = spdy::Reader::new(table.clone(), opened_in, answers).run(from, activity);
    let writer = outbox::write(to, queues, || spdy::frame::go_away(table.last()), activity);
    let work = async move {
        // An error is a client that left, which the reader sees too.
        drop(portforward::spdy(backend, sandbox, opened, &out, times.creation).await);
    };
    drive(reader, writer, work, activity, times.idle).await;
}

async fn tunnel_forward<B: Backend>(
    io: impl Io,
    sandbox: &str,
    backend: &B,
    times: Times,
    activity: &Activity,
) {
    let (from, to) = tokio::io::split(io);
    let (inner, outer) = tokio::io::duplex(PIECE);
    let (mut outer_from, outer_to) = tokio::io::split(outer);
    let (out, answers, queues) = outbox::queues(Encoding::Raw);
    let reader = websocket::read_raw(from, outer_to, answers, activity);
    let writer = outbox::write(to, queues, || websocket::frame::close(CLOSE_NORMAL), activity);
    let messages = async move {
        let mut piece = vec![0; PIECE];
        loop {
            let read = tokio::io::AsyncReadExt::read(&mut outer_from, &mut piece)
                .await
                .unwrap_or(0);
            if read == 0 || out.data(0, &piece[..read]).await.is_err() {
                return;
            }
        }
    };
    let work = async {
        tokio::join!(
            Box::pin(spdy_forward(inner, sandbox, backend, times, activity)),
            messages
        );
    };
    drive(reader, writer, work, activity, times.idle).await;
}

/// Channels of a command, as the protocol numbers them.
mod channel {
    pub(super) const STDIN: usize = 0;
    pub(super) const STDOUT: u32 = 1;
    pub(super) const STDERR: u32 = 2;
    pub(super) const ERROR: u32 = 3;
    pub(super) const RESIZE: usize = 4;
    pub(super) const COUNT: usize = 5;
}

#[allow(clippy::too_many_arguments)]
async fn channel_command<B: Backend>(
    io: impl Io,
    session: Session,
    channels: Channels,
    encoding: Encoding,
    form: Form,
    backend: &B,
    times: Times,
    activity: &Activity,
) {
    let (from, to) = tokio::io::split(io);
    let (out, answers, queues) = outbox::queues(encoding);
    let wanted = Wanted::of(&session, true);
    let mut inboxes: Vec<_> = std::iter::repeat_with(|| None).take(channel::COUNT).collect();
    let mut open = |index: usize| {
        let (inbox_in, inbox) = inbox::channel();
        inboxes[index] = Some(inbox_in);
        inbox
    };
    let streams = Streams {
        stdin: wanted.stdin.then(|| open(channel::STDIN)),
        resize: wanted.resize.then(|| open(channel::RESIZE)),
        stdout: wanted.stdout.then_some(channel::STDOUT),
        stderr: wanted.stderr.then_some(channel::STDERR),
        error: channel::ERROR,
        form,
        out,
    };
    let reader = websocket::read_channels(from, channels, inboxes, answers, activity);
    let writer = outbox::write(to, queues, || websocket::frame::close(CLOSE_NORMAL), activity);
    let work = async move {
        // An empty message tells the client that the server is there.
        let first = streams.stdout.or(streams.stderr).unwrap_or(streams.error);
        if streams.out.data(first, &[]).await.is_ok() {
            exec::run(backend, session, streams).await;
        }
    };
    drive(reader, writer, work, activity, times.idle).await;
}

async fn channel_forward<B: Backend>(
    io: impl Io,
    sandbox: &str,
    ports: Vec<u16>,
    base64: bool,
    backend: &B,
    times: Times,
    activity: &Activity,
) {
    let (from, to) = tokio::io::split(io);
    let (out, answers, queues) = outbox::queues(if base64 {
        Encoding::Base64
    } else {
        Encoding::Binary
    });
    let mut inboxes = Vec::with_capacity(ports.len() * 2);
    let ports: Vec<_> = ports
        .into_iter()
        .map(|port| {
            let (inbox_in, inbox) = inbox::channel();
            inboxes.extend([Some(inbox_in), None]);
            (port, inbox)
        })
        .collect();
    let reader = websocket::read_channels(from, Channels::new(base64, false), inboxes, answers, activity);
    let writer = outbox::write(to, queues, || websocket::frame::close(CLOSE_NORMAL), activity);
    let work = async move {
        // An error is a client that left, which the reader sees too.
        drop(portforward::websocket(backend, sandbox, ports, &out).await);
    };
    drive(reader, writer, work, activity, times.idle).await;
}
