//! LSM labels and syscall filters as requests name them, in the new and the deprecated fields.

use criquet_proto::cri;
use criquet_proto::cri::security_profile::ProfileType;

use super::field;
use crate::container::config::{AppArmorProfile, SeccompProfile, SelinuxLabel};
use crate::fault::{Fault, Result};
use crate::limits;

/// The prefix of profiles that are on the node.
const LOCALHOST: &str = "localhost/";

/// A seccomp profile: the new field wins over the deprecated path. An empty Localhost reference is an error,
/// never "no filter" (CVE-2023-2431).
pub(crate) fn seccomp(profile: Option<&cri::SecurityProfile>, deprecated: &str) -> Result<SeccompProfile> {
    let Some(profile) = profile else {
        return seccomp_path(deprecated);
    };
    Ok(
        match field::choice::<ProfileType>("seccomp profile_type", profile.profile_type)? {
            ProfileType::RuntimeDefault => SeccompProfile::RuntimeDefault,
            ProfileType::Unconfined => SeccompProfile::Unconfined,
            ProfileType::Localhost => localhost_seccomp(&profile.localhost_ref)?,
        },
    )
}

fn seccomp_path(path: &str) -> Result<SeccompProfile> {
    Ok(match path {
        "" => SeccompProfile::None,
        "unconfined" => SeccompProfile::Unconfined,
        "runtime/default" | "docker/default" => SeccompProfile::RuntimeDefault,
        other if other.starts_with(LOCALHOST) => localhost_seccomp(other)?,
        other => {
            return Err(Fault::invalid(format!(
                "seccomp_profile_path {other:?} is not a known form"
            )));
        }
    })
}

fn localhost_seccomp(reference: &str) -> Result<SeccompProfile> {
    let path = reference.strip_prefix(LOCALHOST).unwrap_or(reference);
    if path.is_empty() {
        return Err(Fault::invalid("seccomp localhost_ref is empty"));
    }
    field::text("seccomp localhost_ref", path, limits::PATH_BYTES_MAX)?;
    if path.split('/').any(|part| part == "..") {
        return Err(Fault::invalid(format!(
            "seccomp localhost_ref {path:?} contains \"..\""
        )));
    }
    Ok(SeccompProfile::Localhost(path.to_owned()))
}

/// An AppArmor profile: the new field wins over the deprecated string.
pub(crate) fn apparmor(profile: Option<&cri::SecurityProfile>, deprecated: &str) -> Result<AppArmorProfile> {
    let Some(profile) = profile else {
        return apparmor_string(deprecated);
    };
    Ok(
        match field::choice::<ProfileType>("apparmor profile_type", profile.profile_type)? {
            ProfileType::RuntimeDefault => AppArmorProfile::RuntimeDefault,
            ProfileType::Unconfined => AppArmorProfile::Unconfined,
            ProfileType::Localhost => localhost_apparmor(&profile.localhost_ref)?,
        },
    )
}

fn apparmor_string(profile: &str) -> Result<AppArmorProfile> {
    Ok(match profile {
        "" => AppArmorProfile::None,
        "unconfined" => AppArmorProfile::Unconfined,
        "runtime/default" => AppArmorProfile::RuntimeDefault,
        other if other.starts_with(LOCALHOST) => localhost_apparmor(other)?,
        other => {
            return Err(Fault::invalid(format!(
                "apparmor_profile {other:?} is not a known form"
            )));
        }
    })
}

fn localhost_apparmor(reference: &str) -> Result<AppArmorProfile> {
    let name = reference.strip_prefix(LOCALHOST).unwrap_or(reference);
    if name.is_empty() {
        return Err(Fault::invalid("apparmor localhost_ref is empty"));
    }
    field::line("apparmor localhost_ref", name, limits::PATH_BYTES_MAX)?;
    Ok(AppArmorProfile::Localhost(name.to_owned()))
}

/// Parts of an SELinux label. They are joined with `:`, so only the level may hold one.
pub(crate) fn selinux(options: Option<&cri::SeLinuxOption>) -> Result<SelinuxLabel> {
    let Some(options) = options else {
        return Ok(SelinuxLabel::default());
    };
    let part = |field: &str, value: &str, extra: &str| {
        field::line(field, value, limits::NAME_BYTES_MAX)?;
        match value
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || "_.-".contains(*c) || extra.contains(*c)))
        {
            Some(bad) => Err(Fault::invalid(format!("{field} {value:?} contains {bad:?}"))),
            None => Ok(value.to_owned()),
        }
    };
    Ok(SelinuxLabel {
        user: part("selinux user", &options.user, "")?,
        role: part("selinux role", &options.role, "")?,
        kind: part("selinux type", &options.r#type, "")?,
        level: part("selinux level", &options.level, ":,")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(kind: ProfileType, reference: &str) -> cri::SecurityProfile {
        cri::SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: reference.into(),
        }
    }

    #[test]
    fn seccomp_forms() {
        use SeccompProfile as P;
        let old = |path| seccomp(None, path);
        assert_eq!(old("").unwrap(), P::None);
        assert_eq!(old("unconfined").unwrap(), P::Unconfined);
        assert_eq!(old("docker/default").unwrap(), P::RuntimeDefault);
        assert_eq!(
            old("localhost//p/a.json").unwrap(),
            P::Localhost("/p/a.json".into())
        );
        assert!(old("localhost/").is_err() && old("whatever").is_err() && old("localhost/../x").is_err());
        let new = |kind, reference| seccomp(Some(&profile(kind, reference)), "unconfined");
        assert_eq!(new(ProfileType::RuntimeDefault, "").unwrap(), P::RuntimeDefault);
        assert_eq!(
            new(ProfileType::Localhost, "p/a.json").unwrap(),
            P::Localhost("p/a.json".into())
        );
        assert!(
            new(ProfileType::Localhost, "").is_err(),
            "never unconfined by accident"
        );
        assert!(
            seccomp(
                Some(&cri::SecurityProfile {
                    profile_type: 9,
                    ..Default::default()
                }),
                ""
            )
            .is_err()
        );
    }

    #[test]
    fn apparmor_forms() {
        use AppArmorProfile as P;
        assert_eq!(apparmor(None, "localhost/x").unwrap(), P::Localhost("x".into()));
        let new = profile(ProfileType::Localhost, "localhost/y");
        assert_eq!(
            apparmor(Some(&new), "unconfined").unwrap(),
            P::Localhost("y".into())
        );
        assert!(apparmor(Some(&profile(ProfileType::Localhost, "")), "").is_err());
        assert!(apparmor(None, "x").is_err());
    }

    #[test]
    fn selinux_parts_hold_no_separator() {
        let options = cri::SeLinuxOption {
            user: "a:b".into(),
            ..Default::default()
        };
        assert!(selinux(Some(&options)).is_err());
        let options = cri::SeLinuxOption {
            level: "s0:c1,c2".into(),
            ..Default::default()
        };
        assert_eq!(selinux(Some(&options)).unwrap().level, "s0:c1,c2");
    }
}
