//! AppArmor profile and SELinux label of a container's processes.

use super::host::HostFacts;
use crate::container::config::{AppArmorProfile, Security, SelinuxLabel};
use crate::fault::{Fault, Result};

/// The AppArmor profile; empty: none.
///
/// # Errors
/// A profile is named that this host cannot apply.
pub(super) fn apparmor(security: &Security, host: &HostFacts) -> Result<String> {
    if let AppArmorProfile::Localhost(name) = &security.apparmor {
        if !host.apparmor {
            return Err(Fault::failed_precondition(format!(
                "AppArmor profile {name:?} is asked for, but AppArmor is not enabled on this host"
            )));
        }
        return Ok(if security.privileged {
            String::new()
        } else {
            name.clone()
        });
    }
    if !host.apparmor || security.privileged || security.apparmor == AppArmorProfile::Unconfined {
        return Ok(String::new());
    }
    Ok(host.apparmor_default.clone().unwrap_or_default())
}

/// The SELinux label; empty: none. Parts that the container does not name are the sandbox's, then the policy's
/// usual ones.
pub(super) fn selinux(security: &Security, sandbox: &SelinuxLabel, host: &HostFacts) -> String {
    if !host.selinux || security.privileged {
        return String::new();
    }
    let own = &security.selinux;
    if own.is_empty() && sandbox.is_empty() {
        return String::new();
    }
    let part = |own: &str, pod: &str, usual: &str| {
        [own, pod, usual]
            .into_iter()
            .find(|p| !p.is_empty())
            .map(str::to_owned)
    };
    [
        part(&own.user, &sandbox.user, "system_u"),
        part(&own.role, &sandbox.role, "system_r"),
        part(&own.kind, &sandbox.kind, "container_t"),
        part(&own.level, &sandbox.level, "s0"),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(":")
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::v2;
    use super::*;

    #[test]
    fn apparmor_profiles() {
        let off = v2();
        let on = HostFacts {
            apparmor: true,
            apparmor_default: Some("default".into()),
            ..v2()
        };
        let with = |apparmor: AppArmorProfile, privileged| Security {
            apparmor,
            privileged,
            ..Security::default()
        };
        let localhost = || AppArmorProfile::Localhost("mine".into());
        assert!(apparmor(&with(localhost(), false), &off).is_err());
        assert_eq!(apparmor(&with(localhost(), false), &on).unwrap(), "mine");
        assert_eq!(
            apparmor(&with(AppArmorProfile::None, false), &on).unwrap(),
            "default"
        );
        assert_eq!(
            apparmor(&with(AppArmorProfile::RuntimeDefault, false), &off).unwrap(),
            ""
        );
        assert_eq!(
            apparmor(&with(AppArmorProfile::Unconfined, false), &on).unwrap(),
            ""
        );
        assert_eq!(
            apparmor(&with(AppArmorProfile::RuntimeDefault, true), &on).unwrap(),
            ""
        );
    }

    #[test]
    fn selinux_labels() {
        let on = HostFacts {
            selinux: true,
            ..v2()
        };
        let label = |level: &str| SelinuxLabel {
            level: level.into(),
            ..SelinuxLabel::default()
        };
        let security = Security {
            selinux: label("s0:c1,c2"),
            ..Security::default()
        };
        assert_eq!(
            selinux(&security, &label("s0:c9"), &on),
            "system_u:system_r:container_t:s0:c1,c2"
        );
        assert_eq!(
            selinux(&Security::default(), &label("s0:c9"), &on),
            "system_u:system_r:container_t:s0:c9"
        );
        assert_eq!(selinux(&security, &label(""), &v2()), "");
        let privileged = Security {
            privileged: true,
            ..security
        };
        assert_eq!(selinux(&privileged, &label(""), &on), "");
    }
}
