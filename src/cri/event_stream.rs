//! GetContainerEvents: what happened, with the pod as it is then.

use std::sync::Arc;

use criquet_proto::cri;
use tokio::sync::broadcast::error::RecvError;
use tonic::Status;
use tonic::codegen::BoxStream;

use super::{container_answer, sandbox_answer};
use crate::event::{Event, Kind};
use crate::runtime::Runtime;

/// Messages that wait for a slow reader; then the hub's backlog fills, and what overflows there is counted.
const QUEUE_MAX: usize = 16;

/// Everything from now on, until the reader leaves.
pub fn open(runtime: &Arc<Runtime>) -> BoxStream<cri::ContainerEventResponse> {
    let runtime = Arc::clone(runtime);
    let mut events = runtime.events.listen();
    let (queue, reader) = tokio::sync::mpsc::channel(QUEUE_MAX);
    tokio::spawn(async move {
        loop {
            let received = tokio::select! {
                received = events.recv() => received,
                () = queue.closed() => break,
            };
            let message = match received {
                Ok(event) => message(&runtime, &event),
                Err(RecvError::Lagged(count)) => {
                    tracing::warn!(count, "a listener was too slow; it missed events");
                    continue;
                }
                Err(RecvError::Closed) => break,
            };
            if queue.send(Ok::<_, Status>(message)).await.is_err() {
                break;
            }
        }
    });
    Box::pin(tokio_stream::wrappers::ReceiverStream::new(reader))
}

fn message(runtime: &Runtime, event: &Event) -> cri::ContainerEventResponse {
    let kind = match event.kind {
        Kind::Created => cri::ContainerEventType::ContainerCreatedEvent,
        Kind::Started => cri::ContainerEventType::ContainerStartedEvent,
        Kind::Stopped => cri::ContainerEventType::ContainerStoppedEvent,
        Kind::Deleted => cri::ContainerEventType::ContainerDeletedEvent,
    };
    let sandbox = runtime.sandboxes.find(&event.sandbox);
    let containers = runtime.containers_of(&event.sandbox);
    cri::ContainerEventResponse {
        container_id: event.container.clone(),
        container_event_type: kind.into(),
        created_at: event.at_ns,
        pod_sandbox_status: sandbox.map(|sandbox| sandbox_answer::status(&sandbox)),
        containers_statuses: containers
            .iter()
            .map(|container| container_answer::status(runtime, container))
            .collect(),
    }
}
