//! Profile files, as Docker, containerd, CRI-O and the OCI runtime specification write them, and the rules of
//! one container out of them.

use serde::Deserialize;

use crate::fault::{Fault, Result};
use crate::plan::capabilities;

/// A profile as it stands in a file. Unknown keys are ignored, as everywhere in these files' users.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Profile {
    pub default_action: String,
    pub default_errno_ret: Option<u32>,
    /// OCI's way to name architectures.
    pub architectures: Vec<String>,
    /// Docker's way.
    pub arch_map: Vec<ArchMap>,
    pub syscalls: Vec<Entry>,
}

/// A native architecture and those that its programs may also use.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ArchMap {
    pub architecture: String,
    pub sub_architectures: Vec<String>,
}

/// System calls that are treated alike.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Entry {
    pub names: Vec<String>,
    /// An older spelling of `names`.
    pub name: String,
    pub action: String,
    pub errno_ret: Option<u32>,
    pub args: Option<Vec<Argument>>,
    pub includes: Condition,
    pub excludes: Condition,
}

/// A comparison with an argument.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Argument {
    pub index: u32,
    pub value: u64,
    pub value_two: u64,
    pub op: String,
}

/// When an entry counts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Condition {
    pub caps: Vec<String>,
    pub arches: Vec<String>,
    pub min_kernel: String,
}

/// What decides which entries count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    /// The container's bounding set.
    pub capabilities: u64,
    pub kernel: (u32, u32),
}

impl Profile {
    /// Reads a profile.
    pub(super) fn parse(json: &[u8]) -> Result<Self> {
        let profile: Self = serde_json::from_slice(json)
            .map_err(|error| Fault::invalid(format!("the seccomp profile is not valid: {error}")))?;
        if profile.default_action.is_empty() {
            return Err(Fault::invalid("the seccomp profile has no defaultAction"));
        }
        Ok(profile)
    }

    /// The capabilities that the profile's conditions look at: filters differ only by these.
    pub(super) fn capabilities(&self) -> u64 {
        let conditions = self
            .syscalls
            .iter()
            .flat_map(|entry| [&entry.includes, &entry.excludes]);
        conditions
            .flat_map(|condition| &condition.caps)
            .fold(0, |mask, name| mask | capabilities::bit(name))
    }

    /// The entries that count.
    pub(super) fn entries(&self, situation: Situation) -> impl Iterator<Item = &Entry> {
        self.syscalls.iter().filter(move |entry| entry.counts(situation))
    }

    /// The architectures beside the native one, in the profile's spelling.
    pub(super) fn architectures(&self) -> Vec<&str> {
        let native = native_name();
        let mapped = self.arch_map.iter().find(|map| map.architecture == native);
        let mapped = mapped.into_iter().flat_map(|map| &map.sub_architectures);
        self.architectures
            .iter()
            .chain(mapped)
            .map(String::as_str)
            .filter(|name| *name != native)
            .collect()
    }
}

impl Entry {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let old = (!self.name.is_empty()).then_some(self.name.as_str());
        self.names.iter().map(String::as_str).chain(old)
    }

    pub(super) fn arguments(&self) -> &[Argument] {
        self.args.as_deref().unwrap_or_default()
    }

    fn counts(&self, situation: Situation) -> bool {
        let has = |name: &String| situation.capabilities & capabilities::bit(name) != 0;
        let is_native = |name: &String| name == go_arch();
        let (includes, excludes) = (&self.includes, &self.excludes);
        let kernel = |text: &str| minimum(text).is_none_or(|minimum| situation.kernel >= minimum);
        includes.caps.iter().all(has)
            && (includes.arches.is_empty() || includes.arches.iter().any(is_native))
            && kernel(&includes.min_kernel)
            && !excludes.caps.iter().any(has)
            && !excludes.arches.iter().any(is_native)
            && (excludes.min_kernel.is_empty() || !kernel(&excludes.min_kernel))
    }
}

fn minimum(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// This architecture as conditions spell it.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// This architecture as profiles spell it.
fn native_name() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "SCMP_ARCH_X86_64",
        "aarch64" => "SCMP_ARCH_AARCH64",
        "riscv64" => "SCMP_ARCH_RISCV64",
        "s390x" => "SCMP_ARCH_S390X",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        let profile = Profile::parse(
            br#"{"defaultAction": "SCMP_ACT_ERRNO", "unknown": 1, "syscalls": [
                {"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": null},
                {"name": "b", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["c"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.5"}},
                {"names": ["e"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["other"]}}
            ]}"#,
        )
        .unwrap();
        let names = |capabilities, kernel| {
            let entries = profile.entries(Situation { capabilities, kernel });
            entries
                .flat_map(|entry| entry.names().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        let admin = capabilities::bit("SYS_ADMIN");
        assert_eq!(names(0, (6, 1)), ["a", "c"]);
        assert_eq!(names(admin, (6, 5)), ["a", "b", "d"]);
        assert_eq!(profile.capabilities(), admin);
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        assert!(Profile::parse(b"{}").is_err());
        assert!(Profile::parse(b"[]").is_err());
        assert!(Profile::parse(b"\xff").is_err());
    }
}
