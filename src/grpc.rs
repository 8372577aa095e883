//! gRPC over the unix socket: HTTP/2 connections, each on a task, served by hyper.
//!
//! Not by tonic's own server: that one ends a request by the client's `grpc-timeout` with the code Cancelled, where
//! the kubelet looks for DeadlineExceeded. Here the client's own clock ends a request: it resets the stream, and
//! the request's future is dropped.

use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;

/// After a failed accept (no descriptors left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Requests under way are waited for so long when the daemon is told to end; event streams never end by themselves.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// Headers of a request: gRPC's are a few hundred bytes (HTTP/2 header floods, CVE-2023-44487 and kin).
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Requests at once on one connection.
const STREAMS_MAX: u32 = 1024;

/// Serves until `ending` changes, then waits for what is under way.
pub(crate) async fn serve(listener: UnixListener, routes: Routes, mut ending: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, routes.clone(), ending.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            // Taken off as they end, so that the set does not grow.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            // The sender's going away is an end as well.
            _ = ending.changed() => break,
        }
    }
    let rest = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(END_DEADLINE, rest).await.is_err() {
        tracing::debug!("connections that did not end are cut off");
    }
}

async fn connection(stream: UnixStream, routes: Routes, mut ending: watch::Receiver<bool>) {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX);
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    tokio::pin!(served);
    let result = tokio::select! {
        result = &mut served => result,
        _ = ending.changed() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        // A client that just closes its end is the usual case.
        tracing::debug!(%error, "a connection ended");
    }
}
