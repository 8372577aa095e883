//! Exec and attach, once the streams are there.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::inbox::Inbox;
use crate::outbox::{Gone, Outbox};
use crate::pump::{self, DRAIN};
use crate::resize::Sizes;
use crate::status::Form;
use crate::{Backend, Outcome, Running, Session, Size};

/// An attachment whose outputs have all ended is told the container's end within this, or was cut off while the
/// container goes on.
const CUT_OFF: Duration = Duration::from_secs(10);

/// The client's streams of an exec or attach.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<Inbox>,
    pub(crate) resize: Option<Inbox>,
    pub(crate) stdout: Option<u32>,
    pub(crate) stderr: Option<u32>,
    pub(crate) error: u32,
    pub(crate) form: Form,
    pub(crate) out: Outbox,
}

/// Runs `session` to its end and tells the client how it went.
pub(crate) async fn run<B: Backend>(backend: &B, session: Session, mut streams: Streams) {
    let attach = matches!(session, Session::Attach { .. });
    let begun = if attach {
        backend.attach(session).await
    } else {
        backend.exec(session).await
    };
    let outcome = match begun {
        Ok(running) => Box::pin(stream(running, &mut streams, attach)).await,
        Err(why) => Outcome::Failed(why),
    };
    let outcome = match outcome {
        // The end of an attach is not the end of a command: its code is in the container's status.
        Outcome::Exited(_) if attach => Outcome::Exited(0),
        outcome => outcome,
    };
    // An error is a client that left: there is nobody to tell.
    drop(say(&streams, &outcome).await);
}

async fn say(streams: &Streams, outcome: &Outcome) -> Result<(), Gone> {
    for stream in [streams.stdout, streams.stderr].into_iter().flatten() {
        streams.out.finish(stream).await?;
    }
    let status = streams.form.encode(outcome);
    if !status.is_empty() {
        streams.out.data(streams.error, &status).await?;
    }
    streams.out.finish(streams.error).await
}

async fn stream<R: Running>(mut running: R, streams: &mut Streams, attach: bool) -> Outcome {
    let stdio = running.stdio();
    let may_be_cut_off = attach && (stdio.stdout.is_some() || stdio.stderr.is_some());
    let resizer = running.resizer();
    let (exited, exits) = watch::channel(None);
    let out = &streams.out;
    let output = |fd, stream, name: &'static str| {
        let exits = exits.clone();
        async move {
            if let Some(fd) = fd
                && let Err(error) = pump::output(fd, out, stream, exits).await
            {
                tracing::warn!(%error, "read {name} of the process");
            }
        }
    };
    let ended = async {
        let outcome = running.wait().await;
        exited.send_replace(Some(Instant::now() + DRAIN));
        outcome
    };
    let whole = async {
        let stdout = output(stdio.stdout, streams.stdout, "stdout");
        let stderr = output(stdio.stderr, streams.stderr, "stderr");
        let outputs = async {
            tokio::join!(stdout, stderr);
        };
        let (mut ended, mut outputs) = (pin!(ended), pin!(outputs));
        tokio::select! {
            outcome = &mut ended => {
                outputs.await;
                return outcome;
            }
            () = &mut outputs => {}
        }
        if !may_be_cut_off {
            return ended.await;
        }
        let cut_off = |_| Outcome::Failed("cut off: the client read too slowly".into());
        tokio::time::timeout(CUT_OFF, ended).await.unwrap_or_else(cut_off)
    };
    let inputs = inputs(stdio.stdin, streams.stdin.take(), streams.resize.take(), resizer);
    tokio::select! {
        outcome = whole => outcome,
        never = inputs => match never {},
    }
}

/// The client's side: it may end long before the process, or never.
async fn inputs(
    fd: Option<std::os::fd::OwnedFd>,
    stdin: Option<Inbox>,
    resize: Option<Inbox>,
    resizer: Arc<dyn Fn(Size) + Send + Sync>,
) -> Infallible {
    let stdin = async {
        // No stdin stream: the descriptor is dropped here, which is an end of file.
        if let Some(stdin) = stdin
            && let Err(error) = pump::input(fd, stdin).await
        {
            tracing::warn!(%error, "write stdin of the process");
        }
    };
    let resize = async {
        if let Some(mut resize) = resize {
            let mut sizes = Sizes::default();
            while let Some(bytes) = resize.recv().await {
                if let Some(size) = sizes.push(&bytes) {
                    resizer(size);
                }
            }
        }
    };
    let mut both = pin!(async { tokio::join!(stdin, resize) });
    both.as_mut().await;
    std::future::pending().await
}
