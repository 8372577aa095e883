//! Capabilities of the calling thread (capabilities(7)), as bit masks by number.

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::{Error, Result};

/// Capabilities fit a 64-bit mask; the kernel ends earlier.
const NUMBERS: u32 = 64;

fn prctl(option: i32, a: u64, b: u64, object: &'static str) -> Result<i32> {
    // SAFETY: the options used here take numbers only.
    let answer = unsafe { libc::prctl(option, a, b, 0_u64, 0_u64) };
    if answer < 0 {
        Err(Error::last("prctl", object))
    } else {
        Ok(answer)
    }
}

/// The bounding set.
#[must_use]
pub fn bounding() -> u64 {
    (0..NUMBERS)
        .filter(|cap| {
            prctl(libc::PR_CAPBSET_READ, u64::from(*cap), 0, "PR_CAPBSET_READ").is_ok_and(|set| set == 1)
        })
        .fold(0, |mask, cap| mask | 1 << cap)
}

/// The permitted set.
///
/// # Errors
/// None that is known.
pub fn permitted() -> Result<u64> {
    rustix::thread::capabilities(None)
        .map(|sets| sets.permitted.bits())
        .map_err(|e| Error::new("capget", "", e))
}

/// Takes everything out of the bounding set that is not in `kept`.
///
/// # Errors
/// EPERM: no CAP_SETPCAP.
pub fn drop_bounding(kept: u64) -> Result<()> {
    let mut dropped = bounding() & !kept;
    while dropped != 0 {
        prctl(
            libc::PR_CAPBSET_DROP,
            u64::from(dropped.trailing_zeros()),
            0,
            "PR_CAPBSET_DROP",
        )?;
        dropped &= dropped - 1;
    }
    Ok(())
}

/// Keeps the permitted set when the thread gives up uid 0, until execve.
///
/// # Errors
/// None that is known.
pub fn keep_over_setuid() -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, 0, "PR_SET_KEEPCAPS").map(drop)
}

/// Sets effective and permitted. The inheritable set has no parameter: it is empty (CVE-2022-24769 and its kin), but
/// for what `ambient` needs, which is raised here too.
///
/// # Errors
/// EPERM: more than the thread is permitted.
pub fn set(effective: u64, permitted: u64, ambient: u64) -> Result<()> {
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(effective),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::from_bits_retain(ambient),
    };
    rustix::thread::set_capabilities(None, sets)
        .map_err(|e: Errno| Error::new("capset", format!("permitted {permitted:#x}"), e))?;
    prctl(
        libc::PR_CAP_AMBIENT,
        u64::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs()),
        0,
        "PR_CAP_AMBIENT_CLEAR_ALL",
    )?;
    let mut rest = ambient;
    while rest != 0 {
        let raise = u64::from(libc::PR_CAP_AMBIENT_RAISE.unsigned_abs());
        prctl(
            libc::PR_CAP_AMBIENT,
            raise,
            u64::from(rest.trailing_zeros()),
            "PR_CAP_AMBIENT_RAISE",
        )?;
        rest &= rest - 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gives_up_what_it_is_told() {
        // Capabilities are the thread's.
        let seen = std::thread::spawn(|| {
            drop_bounding(0b11).unwrap();
            set(0b01, 0b11, 0b10).unwrap();
            (
                bounding(),
                permitted().unwrap(),
                crate::procfs::read("thread-self/status", 1 << 14).unwrap(),
            )
        });
        let (bounding, permitted, status) = seen.join().unwrap();
        assert_eq!((bounding, permitted), (0b11, 0b11));
        let line = |name: &str| status.lines().find(|l| l.starts_with(name)).unwrap().to_owned();
        assert!(line("CapEff").ends_with("01"));
        assert!(line("CapInh").ends_with("02"));
        assert!(line("CapAmb").ends_with("02"));
    }
}
