//! Settings in the files of cgroup v2.

use super::cgroup::Setting;
use super::cgroup_v1;
use crate::container::config::Resources;

/// The kernel's default CFS period, microseconds.
const CPU_PERIOD_US: u64 = 100_000;

/// The settings of one controller.
pub(super) fn settings(controller: &str, resources: &Resources) -> Vec<Setting> {
    match controller {
        "cpu" => cpu(resources),
        "cpuset" => cgroup_v1::cpuset(resources),
        "memory" => memory(resources),
        "hugetlb" => hugetlb(resources),
        _ => Vec::new(),
    }
}

fn cpu(resources: &Resources) -> Vec<Setting> {
    let weight = resources
        .cpu_shares
        .map(|shares| Setting::new("cpu.weight", weight(shares)));
    let max = (resources.cpu_quota.is_some() || resources.cpu_period.is_some()).then(|| {
        let quota = resources.cpu_quota.filter(|quota| *quota > 0);
        let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        Setting::new(
            "cpu.max",
            format!("{quota} {}", resources.cpu_period.unwrap_or(CPU_PERIOD_US)),
        )
    });
    [weight, max].into_iter().flatten().collect()
}

/// v1 shares (2 to 262 144, 1024 is the default) as v2 weight (1 to 10 000, 100 is the default): the quadratic
/// in log2 that runc uses since 1.3.2, which maps all three to each other.
fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[allow(clippy::cast_precision_loss)]
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    // The tiny step down keeps exact powers, as 1024 → 100, from being rounded up by the last bit.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let weight = (10f64.powf(exponent) - 1e-9).ceil() as u64;
    weight.clamp(1, 10_000)
}

fn memory(resources: &Resources) -> Vec<Setting> {
    let text = |bytes: i64| {
        if bytes < 0 {
            "max".to_owned()
        } else {
            bytes.to_string()
        }
    };
    let limit = resources
        .memory_limit
        .map(|limit| Setting::new("memory.max", text(limit)));
    // v1 counts memory and swap together, v2 swap alone. Nothing asked for: no swap. The file is missing
    // where the kernel does not account for swap.
    let swap = match (resources.memory_swap, resources.memory_limit) {
        (Some(sum), _) if sum < 0 => Some("max".to_owned()),
        (Some(sum), Some(limit)) if limit >= 0 => Some(sum.saturating_sub(limit).max(0).to_string()),
        (None, Some(limit)) if limit >= 0 => Some("0".to_owned()),
        (None, Some(_)) => Some("max".to_owned()),
        _ => None,
    };
    [limit, swap.map(|swap| Setting::optional("memory.swap.max", swap))]
        .into_iter()
        .flatten()
        .collect()
}

fn hugetlb(resources: &Resources) -> Vec<Setting> {
    let pages = resources.hugepages.iter();
    pages
        .flat_map(|(size, limit)| {
            [
                Setting::new(format!("hugetlb.{size}.max"), limit),
                Setting::optional(format!("hugetlb.{size}.rsvd.max"), limit),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(settings: Vec<Setting>) -> Vec<String> {
        settings
            .into_iter()
            .map(|s| format!("{}={}", s.name, s.value))
            .collect()
    }

    #[test]
    fn weights_map_ends_and_default() {
        for (shares, want) in [
            (2, 1),
            (3, 2),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (262_144, 10_000),
            (1 << 30, 10_000),
        ] {
            assert_eq!(weight(shares), want, "{shares}");
        }
        let weights: Vec<u64> = (2..5000).map(weight).collect();
        assert!(weights.is_sorted());
    }

    #[test]
    fn cpu_max() {
        let with = |cpu_quota, cpu_period| {
            lines(cpu(&Resources {
                cpu_quota,
                cpu_period,
                ..Resources::default()
            }))
        };
        assert_eq!(with(Some(5000), None), ["cpu.max=5000 100000"]);
        assert_eq!(with(Some(-1), Some(50_000)), ["cpu.max=max 50000"]);
        assert_eq!(with(None, Some(50_000)), ["cpu.max=max 50000"]);
        assert!(with(None, None).is_empty());
    }

    #[test]
    fn swap_is_counted_alone() {
        let with = |memory_limit, memory_swap| {
            lines(memory(&Resources {
                memory_limit,
                memory_swap,
                ..Resources::default()
            }))
        };
        assert_eq!(with(Some(100), None), ["memory.max=100", "memory.swap.max=0"]);
        assert_eq!(
            with(Some(100), Some(150)),
            ["memory.max=100", "memory.swap.max=50"]
        );
        assert_eq!(
            with(Some(100), Some(-1)),
            ["memory.max=100", "memory.swap.max=max"]
        );
        assert_eq!(with(Some(-1), None), ["memory.max=max", "memory.swap.max=max"]);
        assert!(with(None, None).is_empty());
    }

    #[test]
    fn huge_pages() {
        let resources = Resources {
            hugepages: [("1GB".to_owned(), 0u64)].into(),
            ..Resources::default()
        };
        assert_eq!(
            lines(hugetlb(&resources)),
            ["hugetlb.1GB.max=0", "hugetlb.1GB.rsvd.max=0"]
        );
    }
}
