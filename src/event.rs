//! What happened to containers and sandboxes, for whoever listens (the kubelet's evented PLEG).

use tokio::sync::broadcast;

/// Events that a slow listener may be behind before it loses the oldest; the loss is counted and told.
const BACKLOG_MAX: usize = 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Made, not yet started.
    Created,
    /// Runs.
    Started,
    /// Ended.
    Stopped,
    /// Gone.
    Deleted,
}

/// One happening. `container` is the sandbox's own id when it is about the sandbox.
#[derive(Debug, Clone)]
pub struct Event {
    /// Container or sandbox id.
    pub container: String,
    /// The pod it belongs to.
    pub sandbox: String,
    /// What happened.
    pub kind: Kind,
    /// When, in nanoseconds since 1970.
    pub at_ns: i64,
}

/// The hub.
#[derive(Debug, Clone)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::channel(BACKLOG_MAX).0)
    }
}

impl Events {
    /// Tells everybody; never waits.
    pub fn tell(&self, sandbox: &str, container: &str, kind: Kind) {
        let event = Event {
            container: container.into(),
            sandbox: sandbox.into(),
            kind,
            at_ns: crate::id::now_ns(),
        };
        // Nobody listening is fine.
        self.0.send(event).ok();
    }

    /// Everything from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}
