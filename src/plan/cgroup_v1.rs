//! Settings in the files of cgroup v1.

use super::cgroup::Setting;
use super::devices::Rule;
use crate::container::config::Resources;

/// The settings of one controller. `old`: what is in force.
pub(super) fn settings(controller: &str, resources: &Resources, old: Option<&Resources>) -> Vec<Setting> {
    match controller {
        "cpu" => cpu(resources),
        "cpuset" => cpuset(resources),
        "memory" => memory(resources, old),
        "hugetlb" => hugetlb(resources),
        _ => Vec::new(),
    }
}

fn cpu(resources: &Resources) -> Vec<Setting> {
    let shares = resources
        .cpu_shares
        .map(|shares| Setting::new("cpu.shares", shares));
    let period = resources
        .cpu_period
        .map(|period| Setting::new("cpu.cfs_period_us", period));
    let quota = resources
        .cpu_quota
        .map(|quota| Setting::new("cpu.cfs_quota_us", quota));
    [shares, period, quota].into_iter().flatten().collect()
}

pub(super) fn cpuset(resources: &Resources) -> Vec<Setting> {
    [
        ("cpuset.cpus", &resources.cpuset_cpus),
        ("cpuset.mems", &resources.cpuset_mems),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| Setting::new(name, value))
    .collect()
}

/// Memory, then memory and swap: the kernel wants the second never below the first. So when the new limit is
/// above the old sum, the sum goes first. Hosts without swap accounting lack the second file.
fn memory(resources: &Resources, old: Option<&Resources>) -> Vec<Setting> {
    let limit = resources
        .memory_limit
        .map(|limit| Setting::new("memory.limit_in_bytes", limit));
    let sum = resources.memory_swap.or(resources.memory_limit);
    let swap = sum.map(|sum| Setting::optional("memory.memsw.limit_in_bytes", sum));
    let in_force = old
        .and_then(|old| old.memory_swap.or(old.memory_limit))
        .filter(|sum| *sum >= 0);
    let grows = match (sum, in_force) {
        (Some(new), Some(old)) => new < 0 || new > old,
        // Nothing in force is no bound.
        _ => false,
    };
    let ordered = if grows { [swap, limit] } else { [limit, swap] };
    ordered.into_iter().flatten().collect()
}

fn hugetlb(resources: &Resources) -> Vec<Setting> {
    let pages = resources.hugepages.iter();
    pages
        .flat_map(|(size, limit)| {
            [
                Setting::new(format!("hugetlb.{size}.limit_in_bytes"), limit),
                // Kernel 5.7: limits reservations, so that mmap fails instead of a later touch.
                Setting::optional(format!("hugetlb.{size}.rsvd.limit_in_bytes"), limit),
            ]
        })
        .collect()
}

/// First everything is denied, then the rules are allowed one by one.
pub(super) fn devices(rules: &[Rule]) -> Vec<Setting> {
    let mut out = vec![Setting::new("devices.deny", "a")];
    let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
    out.extend(rules.iter().map(|rule| {
        let kind = if rule.character { 'c' } else { 'b' };
        let line = format!(
            "{kind} {}:{} {}",
            number(rule.major),
            number(rule.minor),
            rule.access
        );
        Setting::new("devices.allow", line)
    }));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(settings: Vec<Setting>) -> Vec<String> {
        settings
            .into_iter()
            .map(|s| format!("{}={}{}", s.name, s.value, if s.optional { "?" } else { "" }))
            .collect()
    }

    #[test]
    fn cpu_and_cpuset() {
        let resources = Resources {
            cpu_shares: Some(512),
            cpu_period: Some(100_000),
            cpu_quota: Some(-1),
            cpuset_cpus: "0-1".into(),
            ..Resources::default()
        };
        assert_eq!(
            lines(settings("cpu", &resources, None)),
            [
                "cpu.shares=512",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=-1"
            ]
        );
        assert_eq!(lines(settings("cpuset", &resources, None)), ["cpuset.cpus=0-1"]);
        assert!(settings("cpu", &Resources::default(), None).is_empty());
    }

    #[test]
    fn memory_order_follows_the_direction() {
        let with = |memory_limit, memory_swap| Resources {
            memory_limit,
            memory_swap,
            ..Resources::default()
        };
        let names = |new: &Resources, old: Option<&Resources>| {
            settings("memory", new, old)
                .into_iter()
                .map(|s| s.name.contains("memsw"))
                .collect::<Vec<_>>()
        };
        let small = with(Some(100), None);
        let large = with(Some(200), Some(300));
        let unlimited = with(Some(-1), None);
        assert_eq!(names(&small, None), [false, true]);
        assert_eq!(names(&large, Some(&small)), [true, false], "growing");
        assert_eq!(names(&small, Some(&large)), [false, true], "shrinking");
        assert_eq!(names(&unlimited, Some(&small)), [true, false]);
        assert_eq!(names(&small, Some(&unlimited)), [false, true]);
        assert_eq!(
            lines(settings("memory", &small, None)),
            ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=100?"],
            "swap equals the limit when nothing is asked for"
        );
    }

    #[test]
    fn huge_pages_and_devices() {
        let resources = Resources {
            hugepages: [("2MB".to_owned(), 4u64)].into(),
            ..Resources::default()
        };
        assert_eq!(
            lines(settings("hugetlb", &resources, None)),
            [
                "hugetlb.2MB.limit_in_bytes=4",
                "hugetlb.2MB.rsvd.limit_in_bytes=4?"
            ]
        );
        let rule = |character, major, minor| Rule {
            character,
            major,
            minor,
            access: "rw".into(),
        };
        assert_eq!(
            lines(devices(&[
                rule(true, Some(1), Some(3)),
                rule(false, None, None),
                rule(true, Some(136), None)
            ])),
            [
                "devices.deny=a",
                "devices.allow=c 1:3 rw",
                "devices.allow=b *:* rw",
                "devices.allow=c 136:* rw"
            ]
        );
    }
}
