//! The security module's label, which takes effect at execve.

use std::os::fd::OwnedFd;

use criquet_proto::shim::{Process, failed::Kind};
use criquet_sys::{errno, procfs};

use super::{Candidate, Init};
use crate::child::Failure;

/// AppArmor's own file, when several modules are stacked (Linux 5.8), and the shared one.
const APPARMOR: &str = "thread-self/attr/apparmor/exec";
const SHARED: &str = "thread-self/attr/exec";
/// Before the profile's name.
const EXEC: &str = "exec ";

/// An open attribute of this process, and what will be written. It is opened while /proc is the host's, for
/// whatever a container has there could be something else (CVE-2019-16884).
pub(crate) struct Label {
    pub(crate) file: OwnedFd,
    path: &'static str,
    value: String,
}

impl Label {
    pub(crate) fn open(program: &Process) -> Result<Option<Self>, Failure> {
        let made = |path, value| {
            Ok(Some(Self {
                file: procfs::open(path, true)?,
                path,
                value,
            }))
        };
        if !program.apparmor_profile.is_empty() {
            let value = format!("{EXEC}{}", program.apparmor_profile);
            match made(APPARMOR, value.clone()) {
                Err(error) if criquet_sys::Error::is(&error, errno::ENOENT) => Ok(made(SHARED, value)?),
                done => Ok(done?),
            }
        } else if !program.selinux_label.is_empty() {
            Ok(made(SHARED, program.selinux_label.clone())?)
        } else {
            Ok(None)
        }
    }
}

pub(super) fn open(init: &mut Init<'_>) -> Result<(), Failure> {
    init.candidate.label = Label::open(init.birth.program)?;
    Ok(())
}

pub(super) fn apply(candidate: &mut Candidate<'_>) -> Result<(), Failure> {
    let Some(label) = candidate.label.take() else {
        return Ok(());
    };
    procfs::put(&label.file, label.path, label.value.as_bytes()).map_err(|error| match error.errno() {
        // AppArmor looks the profile up here, not at execve.
        Some(errno::ENOENT) => Failure {
            kind: Kind::State,
            message: format!(
                "AppArmor profile {:?} is not loaded",
                label.value.trim_start_matches(EXEC)
            ),
        },
        _ => error.into(),
    })
}
