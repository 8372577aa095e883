//! The systemd unit of a container's cgroup, for pods whose parent is a slice.
//!
//! systemd writes what it knows of a unit into the cgroup when it starts it, and again when it sees a reason to. So it
//! is told what the shim writes: the properties are worked out of the files and their values. Only numbers that were
//! parsed here get into them (CVE-2024-3154: text of a request that became a property ran programs).

use std::collections::BTreeMap;

use criquet_proto::shim;

use super::cgroup;
use super::host::HostFacts;
use crate::container::config::Resources;
use crate::fault::Result;
use crate::sandbox::config::SandboxConfig;
use crate::systemd::{INFINITY, Property, Value, slice};

/// The kernel's default CFS period, microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// A second, in microseconds.
const SECOND_US: u64 = 1_000_000;
/// systemd counts a quota in percent of a processor; less than the container's own would be too little.
const QUOTA_STEP_US: u64 = 10_000;
/// Processors in a mask: the kernel's largest NR_CPUS.
const CPUS_MAX: usize = 8192;

/// The unit of a container or of a pod's init; `None`: its cgroup is a plain folder.
#[must_use]
pub fn unit(default_parent: &str, sandbox: &SandboxConfig, id: &str) -> Option<String> {
    slice::is_slice(cgroup::parent(default_parent, sandbox)).then(|| name(id))
}

/// The name of a scope: ids are minted here and have hexadecimal digits only.
#[must_use]
pub fn name(id: &str) -> String {
    format!("criquet-{id}.scope")
}

/// The properties of a new unit: where it is, who is in it first, and its limits.
#[must_use]
pub fn properties(
    default_parent: &str,
    sandbox: &SandboxConfig,
    id: &str,
    cgroup: &shim::Cgroup,
    pid: u32,
) -> Vec<Property> {
    let text = |text: &str| Value::Text(text.to_owned());
    let slice = slice::name(cgroup::parent(default_parent, sandbox));
    let mut out = vec![
        ("Description", Value::Text(format!("criquet {id}"))),
        ("Slice", text(slice)),
        ("PIDs", Value::Numbers(vec![pid])),
        // Every controller, and systemd stays out of what is below.
        ("Delegate", Value::Flag(true)),
        // The kubelet decides what ends at a shutdown, and when.
        ("DefaultDependencies", Value::Flag(false)),
        // A unit that failed goes as well.
        ("CollectMode", text("inactive-or-failed")),
        ("CPUAccounting", Value::Flag(true)),
        ("MemoryAccounting", Value::Flag(true)),
        ("IOAccounting", Value::Flag(true)),
        ("TasksAccounting", Value::Flag(true)),
    ];
    let files = cgroup.dirs.iter().flat_map(|dir| &dir.files);
    let limits = limits(files.map(|file| (file.name.as_str(), file.value.as_str())));
    if !limits.iter().any(|(name, _)| *name == "TasksMax") {
        // systemd's default is a part of what the host can have; the pod's slice has the limit.
        out.push(("TasksMax", Value::Number(INFINITY)));
    }
    out.extend(limits);
    out
}

/// The properties that follow from a container's resources.
///
/// # Errors
/// `unified` settings on a host without a cgroup v2 home.
pub fn resource_properties(host: &HostFacts, resources: &Resources) -> Result<Vec<Property>> {
    let settings = cgroup::settings(host, resources, None)?;
    let all = settings.iter().flat_map(|(_, settings)| settings);
    Ok(limits(
        all.map(|setting| (setting.name.as_str(), setting.value.as_str())),
    ))
}

/// What systemd calls these files' values; of two with one name the last counts. What it does not know it does not
/// touch.
fn limits<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Property> {
    let (mut values, mut devices) = (BTreeMap::new(), None);
    for (name, value) in files {
        match name {
            "devices.deny" => devices = Some(Vec::new()),
            "devices.allow" => devices.get_or_insert_default().extend(device(value)),
            _ => drop(values.insert(name, value)),
        }
    }
    let mut out: Vec<Property> = values
        .iter()
        .filter_map(|(name, value)| limit(name, value))
        .collect();
    out.extend(quota(&values));
    if let Some(devices) = devices {
        out.push(("DevicePolicy", Value::Text("strict".into())));
        out.push(("DeviceAllow", Value::Pairs(devices)));
    }
    out
}

fn limit(file: &str, value: &str) -> Option<Property> {
    let (name, value) = match file {
        "cpu.weight" => ("CPUWeight", number(value)?),
        "cpu.shares" => ("CPUShares", number(value)?),
        "memory.max" => ("MemoryMax", bound(value)?),
        "memory.high" => ("MemoryHigh", bound(value)?),
        "memory.low" => ("MemoryLow", bound(value)?),
        "memory.min" => ("MemoryMin", bound(value)?),
        "memory.swap.max" => ("MemorySwapMax", bound(value)?),
        "memory.limit_in_bytes" => ("MemoryLimit", bound(value)?),
        "pids.max" => ("TasksMax", bound(value)?),
        "io.weight" => ("IOWeight", number(value.trim_start_matches("default "))?),
        "cpuset.cpus" => return Some(("AllowedCPUs", Value::Bytes(mask(value)?))),
        "cpuset.mems" => return Some(("AllowedMemoryNodes", Value::Bytes(mask(value)?))),
        _ => return None,
    };
    Some((name, Value::Number(value)))
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A number, or none: `max` in v2, -1 in v1.
fn bound(text: &str) -> Option<u64> {
    match text.trim() {
        "max" | "-1" => Some(INFINITY),
        number => number.parse().ok(),
    }
}

/// v2's `cpu.max` is "QUOTA PERIOD", v1 has a file for each.
fn quota(values: &BTreeMap<&str, &str>) -> Vec<Property> {
    let (quota, period) = match values.get("cpu.max") {
        Some(both) => {
            let mut words = both.split_whitespace();
            (words.next(), words.next())
        }
        None => (
            values.get("cpu.cfs_quota_us").copied(),
            values.get("cpu.cfs_period_us").copied(),
        ),
    };
    let Some(quota) = quota.and_then(bound) else {
        return Vec::new();
    };
    let period = period.and_then(number).filter(|period| *period > 0);
    let share = if quota == INFINITY {
        INFINITY
    } else {
        (quota.saturating_mul(SECOND_US) / period.unwrap_or(CPU_PERIOD_US)).next_multiple_of(QUOTA_STEP_US)
    };
    let mut out = vec![("CPUQuotaPerSecUSec", Value::Number(share))];
    out.extend(period.map(|period| ("CPUQuotaPeriodUSec", Value::Number(period))));
    out
}

/// `0-2,4` as bits, the first processor in the lowest bit of the first byte.
fn mask(list: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= CPUS_MAX {
            return None;
        }
        for cpu in first..=last {
            if bytes.len() <= cpu / 8 {
                bytes.resize(cpu / 8 + 1, 0u8);
            }
            if let Some(byte) = bytes.get_mut(cpu / 8) {
                *byte |= 1 << (cpu % 8);
            }
        }
    }
    Some(bytes)
}

/// `c 1:3 rwm` as systemd has it. A minor without its major has no words there: a reload would take it away.
fn device(rule: &str) -> Option<(String, String)> {
    let mut words = rule.split(' ');
    let kind = match words.next()? {
        "c" => "char",
        "b" => "block",
        _ => return None,
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let access: String = words.next()?.chars().filter(|c| "rwm".contains(*c)).collect();
    let name = match (major, minor) {
        ("*", "*") => format!("{kind}-*"),
        (major, "*") => format!("{kind}-{}", number(major)?),
        (major, minor) => format!("/dev/{kind}/{}:{}", number(major)?, number(minor)?),
    };
    Some((name, access))
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::{hybrid, v2};
    use super::*;

    fn of(files: &[(&str, &str)]) -> Vec<Property> {
        limits(files.iter().copied())
    }

    #[test]
    fn limits_are_told_as_they_are_written() {
        let resources = Resources {
            memory_limit: Some(1 << 20),
            cpu_shares: Some(1024),
            cpu_quota: Some(5000),
            cpuset_cpus: "0-1,9".into(),
            unified: [("memory.high".to_owned(), "5".to_owned())].into(),
            ..Resources::default()
        };
        let properties = resource_properties(&v2(), &resources).unwrap();
        for (name, value) in [
            ("MemoryMax", Value::Number(1 << 20)),
            ("MemorySwapMax", Value::Number(0)),
            ("MemoryHigh", Value::Number(5)),
            ("CPUWeight", Value::Number(100)),
            ("CPUQuotaPerSecUSec", Value::Number(50_000)),
            ("AllowedCPUs", Value::Bytes(vec![3, 2])),
        ] {
            assert!(properties.contains(&(name, value)), "{name}: {properties:?}");
        }
        let resources = Resources {
            unified: BTreeMap::new(),
            ..resources
        };
        let properties = resource_properties(&hybrid(), &resources).unwrap();
        assert!(properties.contains(&("MemoryLimit", Value::Number(1 << 20))));
        assert!(properties.contains(&("CPUShares", Value::Number(1024))));
    }

    #[test]
    fn quotas_round_up_to_percents() {
        let share = |files: &[(&str, &str)]| of(files).first().cloned().map(|(_, value)| value);
        assert_eq!(share(&[("cpu.max", "max 100000")]), Some(Value::Number(INFINITY)));
        assert_eq!(share(&[("cpu.max", "1001 100000")]), Some(Value::Number(20_000)));
        let v1 = [("cpu.cfs_quota_us", "-1")];
        assert_eq!(share(&v1), Some(Value::Number(INFINITY)));
        let v1 = [("cpu.cfs_period_us", "50000"), ("cpu.cfs_quota_us", "25000")];
        assert_eq!(of(&v1)[0].1, Value::Number(500_000));
        assert_eq!(of(&v1)[1], ("CPUQuotaPeriodUSec", Value::Number(50_000)));
    }

    #[test]
    fn device_rules_survive_a_reload() {
        let files = [
            ("devices.deny", "a"),
            ("devices.allow", "c *:* m"),
            ("devices.allow", "c 136:* rwm"),
            ("devices.allow", "b 8:1 r"),
            ("devices.allow", "c *:7 r"),
        ];
        let pair = |name: &str, access: &str| (name.to_owned(), access.to_owned());
        let want = vec![
            pair("char-*", "m"),
            pair("char-136", "rwm"),
            pair("/dev/block/8:1", "r"),
        ];
        assert_eq!(
            of(&files),
            [
                ("DevicePolicy", Value::Text("strict".into())),
                ("DeviceAllow", Value::Pairs(want))
            ]
        );
        assert!(of(&[("cpu.shares", "x; rm"), ("memory.high", "1\n2")]).is_empty());
    }

    #[test]
    fn a_unit_has_its_slice_and_no_default_of_systemds() {
        let sandbox = SandboxConfig {
            cgroup_parent: "/kubepods.slice/kubepods-pod1.slice".into(),
            annotations: [("a".to_owned(), "b".to_owned())].into(),
            ..SandboxConfig::default()
        };
        assert_eq!(unit("/criquet", &SandboxConfig::default(), "ab"), None);
        assert_eq!(unit("/criquet", &sandbox, "ab").unwrap(), "criquet-ab.scope");
        let properties = properties("/criquet", &sandbox, "ab", &shim::Cgroup::default(), 7);
        let slice = Value::Text("kubepods-pod1.slice".into());
        assert!(properties.contains(&("Slice", slice)));
        assert!(properties.contains(&("PIDs", Value::Numbers(vec![7]))));
        assert!(properties.contains(&("TasksMax", Value::Number(INFINITY))));
    }
}
