//! Seccomp filters and no_new_privs of the calling thread (seccomp(2)).

use rustix::io::Errno;

use crate::{Error, Result};

/// `BPF_MAXINSNS` (linux/bpf_common.h).
const INSTRUCTIONS_MAX: usize = 4096;

/// From now on no execve gives more rights than the caller has.
///
/// # Errors
/// None that is known.
pub fn set_no_new_privs() -> Result<()> {
    rustix::thread::set_no_new_privs(true).map_err(|e| Error::new("prctl", "PR_SET_NO_NEW_PRIVS", e))
}

/// Loads a filter for the calling thread and what it will execute: `struct sock_filter[]` in native byte order.
/// Needs no_new_privs or CAP_SYS_ADMIN.
///
/// # Errors
/// EINVAL: not a filter; EACCES: neither of the two.
pub fn load(filter: &[u8]) -> Result<()> {
    let invalid = || {
        Error::new(
            "seccomp",
            format!("filter of {} bytes", filter.len()),
            Errno::INVAL,
        )
    };
    let (instructions, rest) = filter.as_chunks::<8>();
    if instructions.is_empty() || !rest.is_empty() || instructions.len() > INSTRUCTIONS_MAX {
        return Err(invalid());
    }
    let mut program: Vec<_> = instructions
        .iter()
        .map(|[a, b, jt, jf, k @ ..]| libc::sock_filter {
            code: u16::from_ne_bytes([*a, *b]),
            jt: *jt,
            jf: *jf,
            k: u32::from_ne_bytes(*k),
        })
        .collect();
    let len = u16::try_from(program.len()).map_err(|_| invalid())?;
    let program = libc::sock_fprog {
        len,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program lives through the call; the kernel copies it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(Error::last("seccomp", format!("filter of {} instructions", len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_a_filter_and_refuses_others() {
        // BPF_RET | BPF_K, SECCOMP_RET_ALLOW
        let allow = [
            6_u16.to_ne_bytes().as_slice(),
            &[0, 0],
            &0x7fff_0000_u32.to_ne_bytes(),
        ]
        .concat();
        assert!(load(&[]).unwrap_err().is(libc::EINVAL));
        assert!(load(&allow[..7]).unwrap_err().is(libc::EINVAL));
        std::thread::spawn(move || {
            set_no_new_privs().unwrap();
            load(&allow).unwrap();
            let status = crate::procfs::read("thread-self/status", 1 << 14).unwrap();
            assert!(status.contains("Seccomp:\t2\n") && status.contains("NoNewPrivs:\t1\n"));
        })
        .join()
        .unwrap();
    }
}
