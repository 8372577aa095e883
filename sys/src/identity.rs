//! Who the calling thread is.

use rustix::fs::{Gid, Uid};

use crate::{Error, Result};

/// Takes on groups, group and user for good, in this order: each needs the rights that the next takes away. All
/// three ids of a kind are set. Every thread of a process has its own; meant for processes of one thread.
///
/// # Errors
/// EINVAL: an id without a mapping in the user namespace.
pub fn take(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    let groups: Vec<_> = groups.iter().copied().map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups)
        .map_err(|e| Error::new("setgroups", format!("{groups:?}"), e))?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(group, group, group)
        .map_err(|e| Error::new("setresgid", gid.to_string(), e))?;
    rustix::thread::set_thread_res_uid(user, user, user)
        .map_err(|e| Error::new("setresuid", uid.to_string(), e))
}
