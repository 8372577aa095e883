//! The time stamp of a log line: RFC 3339 in UTC with nine digits.

use std::time::{SystemTime, UNIX_EPOCH};

/// `2006-01-02T15:04:05.000000000Z`
pub type Stamp = [u8; 30];

/// Nanoseconds since 1970, now.
#[must_use]
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The stamp of a time in nanoseconds since 1970 (not before).
#[must_use]
pub fn stamp(ns: i64) -> Stamp {
    let ns = u64::try_from(ns).unwrap_or(0);
    let seconds = ns / 1_000_000_000;
    let (year, month, day) = date(seconds / 86_400);
    let second = seconds % 86_400;
    let mut stamp = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut stamp[0..4], year);
    digits(&mut stamp[5..7], month);
    digits(&mut stamp[8..10], day);
    digits(&mut stamp[11..13], second / 3600);
    digits(&mut stamp[14..16], second / 60 % 60);
    digits(&mut stamp[17..19], second % 60);
    digits(&mut stamp[20..29], ns % 1_000_000_000);
    stamp
}

fn digits(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

/// Days since 1970 to a date of the Gregorian calendar, counted in eras of 400 years that begin in March, so
/// that a leap day is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::stamp;

    #[test]
    fn stamps_are_rfc3339() {
        assert_eq!(&stamp(0), b"1970-01-01T00:00:00.000000000Z");
        assert_eq!(&stamp(951_782_400_000_000_001), b"2000-02-29T00:00:00.000000001Z");
        assert_eq!(
            &stamp(1_767_225_599_999_999_999),
            b"2025-12-31T23:59:59.999999999Z"
        );
        assert_eq!(
            &stamp(4_107_542_400_000_000_000),
            b"2100-03-01T00:00:00.000000000Z"
        );
    }
}
