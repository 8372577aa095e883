//! Who makes cgroups, and where pods without a parent of their own go.

use serde::{Deserialize, Serialize};

use super::{ConfigError, Runtime};
use crate::systemd::slice;

/// Where pods without a parent go with the cgroupfs driver.
const DEFAULT_CGROUP: &str = "/criquet";
/// The same with systemd.
const DEFAULT_SLICE: &str = "criquet.slice";

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// systemd where it is the host's init, else cgroupfs. A kubelet asks (RuntimeConfig) and does the same.
    Auto,
    /// Folders in the cgroup file system.
    Cgroupfs,
    /// Transient scopes of systemd's, in slices.
    Systemd,
}

impl CgroupDriver {
    /// Whether a cgroup parent is of this driver's syntax.
    ///
    /// # Errors
    /// What it should be.
    pub(super) fn check(self, parent: &str) -> Result<(), String> {
        let is_slice = slice::is_slice(parent);
        match self {
            Self::Auto if is_slice => slice::check(parent).map_err(|fault| fault.message),
            Self::Systemd if is_slice => slice::check(parent).map_err(|fault| fault.message),
            Self::Systemd => Err(format!(
                "systemd makes the cgroups here (runtime.cgroup_driver), and {parent:?} is not a slice: use one such as \"criquet.slice\""
            )),
            Self::Auto | Self::Cgroupfs if is_slice || !parent.starts_with('/') => Err(format!(
                "{parent:?}: use an absolute cgroup path such as \"/criquet\""
            )),
            Self::Auto | Self::Cgroupfs if parent.split('/').any(|part| part == "..") => {
                Err(format!("{parent:?}: use an absolute cgroup path without \"..\""))
            }
            Self::Auto | Self::Cgroupfs => Ok(()),
        }
    }
}

impl Runtime {
    /// Decides what `auto` and an empty parent are on this host.
    ///
    /// # Errors
    /// The parent does not fit the driver.
    pub fn settle(&mut self, systemd_runs: bool) -> Result<(), ConfigError> {
        self.cgroup_driver = match (self.cgroup_driver, systemd_runs) {
            (CgroupDriver::Auto, true) => CgroupDriver::Systemd,
            (CgroupDriver::Auto, false) => CgroupDriver::Cgroupfs,
            (CgroupDriver::Systemd, false) => {
                return Err(ConfigError(
                    "runtime.cgroup_driver is \"systemd\", but systemd is not this host's init: use \"auto\" or \"cgroupfs\"".into(),
                ));
            }
            (driver, _) => driver,
        };
        if self.cgroup_parent.is_empty() {
            self.cgroup_parent = match self.cgroup_driver {
                CgroupDriver::Systemd => DEFAULT_SLICE.into(),
                CgroupDriver::Auto | CgroupDriver::Cgroupfs => DEFAULT_CGROUP.into(),
            };
        }
        self.cgroup_driver
            .check(&self.cgroup_parent)
            .map_err(|problem| ConfigError(format!("runtime.cgroup_parent: {problem}")))
    }

    /// Whether a pod may have this cgroup parent; the driver is settled.
    ///
    /// # Errors
    /// What it should be, and where that is said.
    pub fn check_parent(&self, parent: &str) -> Result<(), String> {
        if parent.is_empty() || slice::is_slice(parent) == (self.cgroup_driver == CgroupDriver::Systemd) {
            return Ok(());
        }
        let (is, driver) = match self.cgroup_driver {
            CgroupDriver::Systemd => ("not a slice", "systemd"),
            CgroupDriver::Auto | CgroupDriver::Cgroupfs => ("a slice of systemd's", "cgroupfs"),
        };
        Err(format!(
            "cgroup_parent {parent:?} is {is}, and the cgroup driver here is {driver}: the kubelet (cgroupDriver) and criquet (runtime.cgroup_driver) must have the same"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_follows_the_host_and_the_parent_the_driver() {
        let settled = |driver, parent: &str, systemd_runs| {
            let mut runtime = Runtime {
                cgroup_driver: driver,
                cgroup_parent: parent.into(),
                ..Runtime::default()
            };
            runtime.settle(systemd_runs).map(|()| runtime)
        };
        let systemd = settled(CgroupDriver::Auto, "", true).unwrap();
        assert_eq!(systemd.cgroup_driver, CgroupDriver::Systemd);
        assert_eq!(systemd.cgroup_parent, "criquet.slice");
        let cgroupfs = settled(CgroupDriver::Auto, "", false).unwrap();
        assert_eq!(cgroupfs.cgroup_driver, CgroupDriver::Cgroupfs);
        assert_eq!(cgroupfs.cgroup_parent, "/criquet");
        assert!(settled(CgroupDriver::Auto, "/criquet", true).is_err());
        assert!(settled(CgroupDriver::Systemd, "", false).is_err());
        assert!(settled(CgroupDriver::Cgroupfs, "", true).is_ok());
        for parent in ["", "kubepods-pod1.slice"] {
            systemd.check_parent(parent).unwrap();
        }
        assert!(systemd.check_parent("/kubepods/pod1").is_err());
        assert!(cgroupfs.check_parent("/kubepods/pod1").is_ok());
        assert!(cgroupfs.check_parent("/kubepods.slice").is_err());
    }
}
