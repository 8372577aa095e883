//! One attempt at a time for each thing, shared by all who want it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use crate::{Error, Result};

/// What a shared attempt ends with; an error is told to several.
type Outcome<T> = std::result::Result<T, Arc<Error>>;
type Attempt<T> = BoxFuture<'static, Outcome<T>>;

/// Attempts in progress. One that nobody waits for any more is dropped, and so cancelled.
#[derive(Debug)]
pub(crate) struct Flights<K, T: Clone>(Mutex<HashMap<K, WeakShared<Attempt<T>>>>);

impl<K, T: Clone> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone, T: Clone + Send + Sync + 'static> Flights<K, T> {
    /// Waits for the attempt in progress at `key`, or starts one.
    pub(crate) async fn join(&self, key: &K, start: impl Fn() -> BoxFuture<'static, Result<T>>) -> Result<T> {
        self.once(key, &start).await.1
    }

    /// As [`Self::join`], but when the attempt of somebody else fails there is another: it may have had other
    /// credentials or another registry.
    pub(crate) async fn join_or_retry(
        &self,
        key: &K,
        start: impl Fn() -> BoxFuture<'static, Result<T>>,
    ) -> Result<T> {
        match self.once(key, &start).await {
            (false, Err(_)) => self.once(key, &start).await.1,
            (_, outcome) => outcome,
        }
    }

    /// Whether the attempt was our own, and what came of it.
    async fn once(&self, key: &K, start: &impl Fn() -> BoxFuture<'static, Result<T>>) -> (bool, Result<T>) {
        let (attempt, is_ours) = self.attempt(key, start);
        let outcome = attempt.await;
        self.tidy();
        (
            is_ours,
            outcome.map_err(|error| Error::new(error.kind(), error.to_string())),
        )
    }

    fn attempt(
        &self,
        key: &K,
        start: &impl Fn() -> BoxFuture<'static, Result<T>>,
    ) -> (Shared<Attempt<T>>, bool) {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has ended tells the past: what it made may be gone.
        let current = flights
            .get(key)
            .and_then(WeakShared::upgrade)
            .filter(|attempt| attempt.peek().is_none());
        if let Some(attempt) = current {
            return (attempt, false);
        }
        let attempt = start().map(|outcome| outcome.map_err(Arc::new)).boxed().shared();
        if let Some(weak) = attempt.downgrade() {
            flights.insert(key.clone(), weak);
        }
        (attempt, true)
    }

    fn tidy(&self) {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, weak| weak.upgrade().is_some_and(|attempt| attempt.peek().is_none()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test]
    async fn joined_cancelled_and_tried_again() {
        let flights = Arc::new(Flights::<u32, usize>::default());
        let starts = Arc::new(AtomicUsize::new(0));
        let ends = Arc::new(AtomicUsize::new(0));
        let start = || {
            let (starts, ends) = (starts.clone(), ends.clone());
            async move {
                let number = starts.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
                ends.fetch_add(1, Ordering::SeqCst);
                if number == 0 {
                    Err(Error::new(ErrorKind::Denied, "no"))
                } else {
                    Ok(number)
                }
            }
            .boxed()
        };
        // The first fails for who started it; who joined starts the second, which the third joins.
        let (a, b, c) = tokio::join!(
            flights.join(&1, start),
            flights.join_or_retry(&1, start),
            flights.join_or_retry(&1, start)
        );
        assert_eq!(a.unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!((b.unwrap(), c.unwrap()), (1, 1));
        assert_eq!(ends.load(Ordering::SeqCst), 2);
        let dropped = Arc::new(());
        let never = || {
            let held = dropped.clone();
            async move {
                let _held = held;
                std::future::pending().await
            }
            .boxed()
        };
        tokio::time::timeout(Duration::from_millis(1), flights.join(&2, never))
            .await
            .unwrap_err();
        assert_eq!(Arc::strong_count(&dropped), 1, "cancelled with who waited");
        flights.tidy();
        assert!(flights.0.lock().unwrap().is_empty());
    }
}
