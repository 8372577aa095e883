//! The AppArmor profile of containers that name none: loaded at start, where AppArmor is on.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use criquet_sys::host;

use crate::fault::{Fault, OrFault, Result};

/// The profile's name, in its text, too.
pub const DEFAULT_PROFILE: &str = "criquet-default";

const TEXT: &str = include_str!("../deploy/apparmor/criquet-default");
/// AppArmor's own compiler: the profile's binary form depends on the kernel, and only it knows.
const PARSERS: [&str; 2] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];
/// Compiling takes some 50 ms.
const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// Loads the default profile, unless one of its name is there: an administrator's own, or an earlier daemon's.
/// Without the parser containers run without a profile; a warning says so. Blocks.
pub fn load_default() {
    if !host::apparmor_enabled() || loaded(DEFAULT_PROFILE) {
        return;
    }
    let Some(parser) = PARSERS.into_iter().find(|path| Path::new(path).exists()) else {
        return tracing::warn!(
            "AppArmor is on, but there is no apparmor_parser (package apparmor): containers that name no profile run unconfined"
        );
    };
    match load(parser) {
        Ok(()) => tracing::info!(profile = DEFAULT_PROFILE, "AppArmor profile loaded"),
        Err(error) => tracing::warn!(%error, "containers that name no AppArmor profile run unconfined"),
    }
}

/// Whether the kernel has this profile.
#[must_use]
pub fn loaded(name: &str) -> bool {
    let profiles = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
    listed(&profiles, name)
}

/// Lines are `NAME (MODE)`; a name may contain spaces.
fn listed(profiles: &str, name: &str) -> bool {
    let names = profiles.lines().filter_map(|line| line.rsplit_once(" ("));
    names.into_iter().any(|(known, _)| known == name)
}

fn load(parser: &str) -> Result<()> {
    let doing = || format!("loading AppArmor profile {DEFAULT_PROFILE:?} with {parser}");
    let mut child = Command::new(parser)
        // Neither reads nor writes a cache: the profile is small, and the folder may be read-only.
        .args(["--replace", "--skip-cache", "--quiet"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .or_internal(doing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // The text fits a pipe; what the parser made of it, its status says.
        stdin.write_all(TEXT.as_bytes()).ok();
    }
    let end = Instant::now() + DEADLINE;
    while child.try_wait().or_internal(doing)?.is_none() {
        if Instant::now() > end {
            child.kill().ok();
            child.wait().ok();
            return Err(Fault::internal(format!("{}: it did not end", doing())));
        }
        std::thread::sleep(POLL);
    }
    let output = child.wait_with_output().or_internal(doing)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Fault::internal(format!("{}: {}", doing(), said.trim())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_has_its_name_and_needs_no_other_file() {
        assert!(TEXT.contains(&format!("\nprofile {DEFAULT_PROFILE} flags=")));
        assert!(TEXT.contains(&format!("peer={DEFAULT_PROFILE},")));
        assert!(!TEXT.contains("include <") && !TEXT.contains("@{"));
        assert!(TEXT.len() < 4096, "has to fit a pipe that nobody reads");
    }

    #[test]
    fn profiles_are_found_by_their_whole_name() {
        let list = "criquet-default (enforce)\n/usr/bin/my app (complain)\n";
        assert!(listed(list, "criquet-default") && listed(list, "/usr/bin/my app"));
        assert!(!listed(list, "criquet") && !listed(list, "/usr/bin/my") && !listed("", ""));
    }
}
