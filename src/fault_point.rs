//! Named steps at which a debug build can be told to die, to fail or to wait: so that tests prove what a crash
//! there leaves. A release build has none of this.
//!
//! `CRIQUET_FAULT=POINT[:N][=ACTION]` does ACTION when POINT is reached for the N-th time (the first by default).
//! ACTION is `die` (as by kill -9, the default), `fail`, or a number of milliseconds to wait.

use crate::fault::{Fault, Result};

/// Tells the daemon what to do where.
pub const VARIABLE: &str = "CRIQUET_FAULT";

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// A step of an operation; the name's first part is the operation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $($(#[$doc])* $name,)*
        }

        impl Point {
            /// All of them, each in the order of its operation.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As `CRIQUET_FAULT` has it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

points! {
    /// The intent is recorded.
    RunIntent = "run.intent";
    /// Namespaces are pinned.
    RunNamespaces = "run.namespaces";
    /// The tmpfs is mounted and filled.
    RunFiles = "run.files";
    /// The network's intent is recorded.
    RunNetworkRecorded = "run.network_recorded";
    /// Link, address and rules are there, and not yet recorded.
    RunNetworkMade = "run.network_made";
    /// The network is attached.
    RunNetwork = "run.network";
    /// The process of a shared pid namespace exists.
    RunInit = "run.init";
    /// All is made, and not yet recorded.
    RunMade = "run.made";
    /// The pod is recorded as ready, and not yet answered.
    RunRecorded = "run.recorded";
    /// The intent is recorded.
    CreateIntent = "create.intent";
    /// The folders are there.
    CreateFolders = "create.folders";
    /// The plan is written.
    CreatePlan = "create.plan";
    /// A shim waits for its plan.
    CreateShim = "create.shim";
    /// Init waits for its release.
    CreateMade = "create.made";
    /// The container is recorded, and not yet answered.
    CreateRecorded = "create.recorded";
    /// Before the shim is told.
    StartAsked = "start.asked";
    /// The program runs, and that is not yet known.
    StartReleased = "start.released";
    /// The signal that asks for the end was sent.
    StopAsked = "stop.asked";
    /// SIGKILL was sent.
    StopKilled = "stop.killed";
    /// The container has ended, and that is not yet recorded.
    StopEnded = "stop.ended";
    /// The end is recorded, and not yet told.
    StopRecorded = "stop.recorded";
    /// The intent is recorded.
    RemoveIntent = "remove.intent";
    /// Cgroups and files are gone.
    RemoveCleared = "remove.cleared";
    /// The record is gone.
    RemoveForgotten = "remove.forgotten";
    /// The intent is recorded and the containers have ended.
    StopPodIntent = "stop_pod.intent";
    /// The network is detached.
    StopPodNetwork = "stop_pod.network";
    /// Namespaces and files are gone.
    StopPodCleared = "stop_pod.cleared";
    /// The pod is recorded as stopped.
    StopPodRecorded = "stop_pod.recorded";
    /// Everything but the containers is gone.
    RemovePodStopped = "remove_pod.stopped";
    /// The containers are gone.
    RemovePodContainers = "remove_pod.containers";
    /// The record is gone.
    RemovePodForgotten = "remove_pod.forgotten";
    /// A layer is unpacked.
    PullUnpacked = "pull.unpacked";
    /// A layer is durable, and not in its place.
    PullSealed = "pull.sealed";
    /// A layer is in its place, and not recorded.
    PullPublished = "pull.published";
    /// A layer is recorded.
    PullRecorded = "pull.recorded";
    /// The image is recorded, and not yet answered.
    PullNamed = "pull.named";
}

/// The names of all points, a line each; none in a release build.
#[must_use]
pub fn list() -> String {
    let points = if cfg!(debug_assertions) { Point::ALL } else { &[] };
    points.iter().map(|point| format!("{}\n", point.name())).collect()
}

/// Arms what the environment asks for.
///
/// # Errors
/// There is no such point or action.
pub fn check() -> Result<()> {
    // Other crates know nothing of faults; they have no way to fail at a step.
    criquet_sys::step::watch(|name| {
        if let Some(action) = armed::due(name)
            && let Err(fault) = act(action, name)
        {
            tracing::warn!(%fault, "nothing can fail here");
        }
    });
    armed::check().map_err(|text| Fault::invalid(format!("{VARIABLE}={text}: no such point or action")))
}

/// An operation has come to `point`.
///
/// # Errors
/// It was told to fail there.
pub async fn reach(point: Point) -> Result<()> {
    match armed::due(point.name()) {
        None => Ok(()),
        Some(armed::Action::Wait(time)) => {
            tokio::time::sleep(time).await;
            Ok(())
        }
        Some(action) => act(action, point.name()),
    }
}

/// [`reach`] where nothing can fail.
pub async fn pass(point: Point) {
    if let Err(fault) = reach(point).await {
        tracing::warn!(%fault, "nothing can fail here");
    }
}

/// [`reach`] where waiting blocks.
///
/// # Errors
/// As [`reach`].
pub fn reach_blocking(point: Point) -> Result<()> {
    armed::due(point.name()).map_or(Ok(()), |action| act(action, point.name()))
}

fn act(action: armed::Action, name: &str) -> Result<()> {
    match action {
        armed::Action::Die => die(),
        armed::Action::Fail => Err(Fault::internal(format!("told to fail at {name}"))),
        armed::Action::Wait(time) => {
            std::thread::sleep(time);
            Ok(())
        }
    }
}

/// As kill -9 does it: no destructor, no core.
fn die() -> ! {
    if let Ok(pid) = i32::try_from(std::process::id()) {
        criquet_sys::signal::kill(pid, criquet_sys::signal::SIGKILL).ok();
    }
    std::process::abort()
}

#[cfg_attr(
    not(debug_assertions),
    expect(dead_code, reason = "a release build is never told anything")
)]
mod armed {
    use std::time::Duration;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Action {
        Die,
        Fail,
        Wait(Duration),
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn check() -> Result<(), String> {
        Ok(())
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn due(_: &str) -> Option<Action> {
        None
    }

    #[cfg(debug_assertions)]
    pub(super) use told::{check, due};

    #[cfg(debug_assertions)]
    mod told {
        use std::sync::OnceLock;
        use std::sync::atomic::{AtomicU32, Ordering};
        use std::time::Duration;

        use super::super::{Point, VARIABLE};
        use super::Action;

        #[derive(Debug)]
        struct Order {
            point: &'static str,
            left: AtomicU32,
            action: Action,
        }

        fn order() -> &'static Result<Option<Order>, String> {
            static ORDER: OnceLock<Result<Option<Order>, String>> = OnceLock::new();
            ORDER.get_or_init(|| match std::env::var(VARIABLE) {
                Ok(text) => parse(&text).map(Some).ok_or(text),
                Err(_) => Ok(None),
            })
        }

        fn parse(text: &str) -> Option<Order> {
            let (place, action) = text.split_once('=').unwrap_or((text, "die"));
            let (name, count) = place.split_once(':').unwrap_or((place, "1"));
            let action = match action {
                "die" => Action::Die,
                "fail" => Action::Fail,
                time => Action::Wait(Duration::from_millis(time.parse().ok()?)),
            };
            let point = Point::ALL
                .iter()
                .map(|point| point.name())
                .find(|known| *known == name)?;
            Some(Order {
                point,
                left: AtomicU32::new(count.parse().ok()?),
                action,
            })
        }

        pub(crate) fn check() -> Result<(), String> {
            order().as_ref().map(drop).map_err(Clone::clone)
        }

        pub(crate) fn due(name: &str) -> Option<Action> {
            let order = order().as_ref().ok()?.as_ref()?;
            // The count may wrap around below zero: four thousand million times are never reached.
            (order.point == name && order.left.fetch_sub(1, Ordering::Relaxed) == 1).then_some(order.action)
        }

        #[cfg(test)]
        mod tests {
            use super::*;

            #[test]
            fn orders_are_read() {
                let order = parse("run.intent:3=250").unwrap();
                assert_eq!((order.point, order.left.into_inner()), ("run.intent", 3));
                assert_eq!(order.action, Action::Wait(Duration::from_millis(250)));
                assert_eq!(parse("stop.ended").unwrap().action, Action::Die);
                for wrong in ["", "run", "run.intent:x", "run.intent=x"] {
                    assert!(parse(wrong).is_none(), "{wrong}");
                }
            }
        }
    }
}
