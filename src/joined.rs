//! Requests that join: a repeated request waits for the attempt under way and gets its answer.
//!
//! The kubelet repeats a request whose deadline passed. An attempt runs on a task of its own, so that the first
//! caller's going away does not cut it off half-way.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::fault::Fault;

type Answer<T> = Option<Result<T, Fault>>;

/// Attempts under way, by what they are about.
#[derive(Debug)]
pub struct Joined<T>(Arc<Mutex<HashMap<String, watch::Receiver<Answer<T>>>>>);

impl<T> Default for Joined<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + Sync + 'static> Joined<T> {
    /// Waits for the attempt at `key`, starting `attempt` when there is none.
    ///
    /// # Errors
    /// What the attempt ended with; everyone who waited gets the same.
    pub async fn run<F>(&self, key: String, attempt: impl FnOnce() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let mut answer = {
            let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match attempts.entry(key.clone()) {
                Entry::Occupied(under_way) => under_way.get().clone(),
                Entry::Vacant(place) => {
                    let (tell, answer) = watch::channel(None);
                    place.insert(answer.clone());
                    let attempts = Arc::clone(&self.0);
                    let work = attempt();
                    // The guard takes the key away even when the attempt panics.
                    let guard = Forget { attempts, key };
                    tokio::spawn(async move {
                        let result = work.await;
                        drop(guard);
                        tell.send_replace(Some(result));
                    });
                    answer
                }
            }
        };
        let result = answer.wait_for(Option::is_some).await;
        match result.as_deref() {
            Ok(Some(result)) => result.clone(),
            Ok(None) | Err(_) => Err(Fault::internal("the attempt ended without an answer")),
        }
    }
}

struct Forget<T> {
    attempts: Arc<Mutex<HashMap<String, watch::Receiver<Answer<T>>>>>,
    key: String,
}

impl<T> Drop for Forget<T> {
    fn drop(&mut self) {
        self.attempts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn two_callers_share_one_attempt_and_a_third_starts_anew() {
        let joined = Joined::default();
        let runs = Arc::new(AtomicU32::new(0));
        let attempt = || {
            let runs = Arc::clone(&runs);
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(runs.fetch_add(1, Ordering::SeqCst))
            }
        };
        let (a, b) = tokio::join!(joined.run("k".into(), attempt), joined.run("k".into(), attempt));
        assert_eq!((a.unwrap(), b.unwrap()), (0, 0));
        assert_eq!(joined.run("k".into(), attempt).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_attempt_outlives_its_caller() {
        let joined: Joined<u32> = Joined::default();
        let (go, gone) = tokio::sync::oneshot::channel();
        let (tell, told) = tokio::sync::oneshot::channel();
        let call = joined.run("k".into(), || async move {
            gone.await.ok();
            tell.send(()).ok();
            Ok(0)
        });
        let caller = tokio::time::timeout(Duration::from_millis(5), call);
        assert!(caller.await.is_err());
        // The attempt can end only now, when nobody waits for it.
        go.send(()).expect("the attempt goes on");
        told.await.expect("the attempt comes to its end");
    }
}
