//! Syscall filters: which profile, compiled once, kept.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use self::profile::{Profile, Situation};
use super::host::HostFacts;
use crate::container::config::{SeccompProfile, Security};
use crate::fault::{Fault, Kind, OrFault, Result};
use crate::limits;

mod compile;
mod numbers;
mod prefix;
mod profile;

/// The RuntimeDefault profile: data, so that administrators can read it, copy it and diff it.
const DEFAULT: &str = include_str!("../../../deploy/seccomp/default.json");

/// What a compiled filter depends on: the profile's text and the capabilities that its conditions look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    profile: u64,
    bytes: usize,
    capabilities: u64,
}

static FILTERS: LazyLock<Mutex<HashMap<Key, Arc<[u8]>>>> = LazyLock::new(Mutex::default);

/// The default profile, parsed once.
static DEFAULT_PROFILE: LazyLock<Result<Profile>> = LazyLock::new(|| Profile::parse(DEFAULT.as_bytes()));

/// The filter of a container as `struct sock_filter[]`; empty: none. Only an explicit Unconfined, nothing asked
/// for, or privileged mean none.
///
/// # Errors
/// The profile is not there or not valid.
pub fn filter(security: &Security, capabilities: u64, host: &HostFacts, dir: &Path) -> Result<Arc<[u8]>> {
    if security.privileged {
        return Ok(Arc::from([]));
    }
    match &security.seccomp {
        SeccompProfile::None | SeccompProfile::Unconfined => Ok(Arc::from([])),
        SeccompProfile::RuntimeDefault => {
            let profile = DEFAULT_PROFILE.as_ref().map_err(Clone::clone)?;
            cached(DEFAULT.as_bytes(), profile, capabilities, host.kernel)
        }
        SeccompProfile::Localhost(path) => {
            let path = localhost(path, dir)?;
            let doing = || format!("seccomp profile {path:?}");
            let json = read(&path).map_err(|fault| fault.while_doing(doing()))?;
            Profile::parse(&json)
                .and_then(|profile| cached(&json, &profile, capabilities, host.kernel))
                .map_err(|fault| fault.while_doing(doing()))
        }
    }
}

/// Compiles the default profile for containers without changed capabilities, so that the first one need not wait.
///
/// # Errors
/// libseccomp does not work.
pub fn warm_up(host: &HostFacts) -> Result<()> {
    let security = Security {
        seccomp: SeccompProfile::RuntimeDefault,
        ..Security::default()
    };
    let sets = super::capabilities::sets(&security, 0, host.capabilities);
    filter(&security, sets.bounding, host, Path::new("/")).map(|_| ())
}

/// The kubelet gives an absolute path; a relative one is below the daemon's folder.
fn localhost(path: &str, dir: &Path) -> Result<PathBuf> {
    if path.is_empty() || path.split('/').any(|part| part == "..") {
        return Err(Fault::invalid(format!(
            "seccomp profile {path:?} is not a path that may be read"
        )));
    }
    Ok(dir.join(path))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let metadata = std::fs::metadata(path).or_fault(Kind::Invalid, || "looking at it".into())?;
    if !metadata.is_file() {
        return Err(Fault::invalid("it is not a regular file"));
    }
    let file = std::fs::File::open(path).or_fault(Kind::Invalid, || "opening it".into())?;
    let mut json = Vec::new();
    let max = limits::SECCOMP_PROFILE_BYTES_MAX;
    file.take(max + 1)
        .read_to_end(&mut json)
        .or_fault(Kind::Invalid, || "reading it".into())?;
    if json.len() as u64 > max {
        return Err(Fault::invalid(format!("it has more than {max} bytes")));
    }
    Ok(json)
}

fn cached(json: &[u8], profile: &Profile, capabilities: u64, kernel: (u32, u32)) -> Result<Arc<[u8]>> {
    let mut hasher = DefaultHasher::new();
    json.hash(&mut hasher);
    let capabilities = capabilities & profile.capabilities();
    let key = Key {
        profile: hasher.finish(),
        bytes: json.len(),
        capabilities,
    };
    if let Some(filter) = FILTERS.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Ok(Arc::clone(filter));
    }
    // Not under the lock: it takes milliseconds, and two that compile the same do no harm.
    let filter: Arc<[u8]> = compile::compile(profile, Situation { capabilities, kernel })?.into();
    let mut filters = FILTERS.lock().unwrap_or_else(PoisonError::into_inner);
    if filters.len() >= limits::SECCOMP_CACHE_ENTRIES_MAX {
        filters.clear();
    }
    filters.insert(key, Arc::clone(&filter));
    Ok(filter)
}

#[cfg(test)]
mod tests;
