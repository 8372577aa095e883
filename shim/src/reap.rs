//! Children that have ended.

use criquet_sys::pidfd::{self, Ended};
use criquet_sys::signal::SignalFd;

use crate::complain;

/// Every child that has ended since the last call, known or not: a helper of a failed start ends here too.
#[must_use]
pub fn ended(signals: &SignalFd) -> Vec<(i32, Ended)> {
    // One pending SIGCHLD can stand for many children.
    while signals.take().is_some() {}
    let mut all = Vec::new();
    loop {
        match pidfd::reap_any() {
            Ok(Some(one)) => all.push(one),
            Ok(None) => return all,
            Err(error) => {
                complain(&error.to_string());
                return all;
            }
        }
    }
}
