//! Nanoseconds of processor time become cores in use: the difference to the last look.

use std::sync::{Mutex, PoisonError};

/// Two looks closer than this tell chance, not a rate: then the last rate is told again.
const SPAN_NS_MIN: i64 = 500_000_000;
/// Nanoseconds in a second.
const SECOND_NS: u128 = 1_000_000_000;

#[derive(Debug, Clone, Copy)]
struct Look {
    at_ns: i64,
    cpu_ns: u64,
    rate: Option<u64>,
}

/// The last look.
#[derive(Debug, Default)]
pub struct Rate(Mutex<Option<Look>>);

impl Rate {
    /// Cores in use in billionths, since the last look; `None` at the first.
    pub fn look(&self, at_ns: i64, cpu_ns: u64) -> Option<u64> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = *last else {
            *last = Some(Look {
                at_ns,
                cpu_ns,
                rate: None,
            });
            return None;
        };
        let span = at_ns.saturating_sub(before.at_ns);
        if span < SPAN_NS_MIN {
            return before.rate;
        }
        let used = u128::from(cpu_ns.saturating_sub(before.cpu_ns)) * SECOND_NS;
        let rate = u128::try_from(span)
            .ok()
            .and_then(|span| u64::try_from(used / span).ok());
        *last = Some(Look { at_ns, cpu_ns, rate });
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_core_is_half_a_billion() {
        let rate = Rate::default();
        assert_eq!(rate.look(0, 0), None);
        assert_eq!(rate.look(100_000_000, 100), None, "too close");
        assert_eq!(rate.look(2_000_000_000, 1_000_000_000), Some(500_000_000));
        assert_eq!(
            rate.look(2_100_000_000, 9_000_000_000),
            Some(500_000_000),
            "too close: told again"
        );
    }
}
