//! Cgroup settings as requests give them, and as status answers return them.

use std::collections::BTreeMap;

use criquet_proto::cri;

use super::field;
use crate::container::config::Resources;
use crate::fault::{Fault, Result};
use crate::limits;

/// Microseconds: what the kernel takes as a CFS period (sched-bwc).
const CPU_PERIOD_US: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
/// Microseconds: the kernel takes no smaller quota.
const CPU_QUOTA_US_MIN: i64 = 1_000;
/// What cgroup v1's cpu.shares holds.
const CPU_SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
/// proc(5), oom_score_adj.
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i64> = -1000..=1000;

/// Validates cgroup settings. In the CRI zero means "not asked for", except for `oom_score_adj`.
///
/// # Errors
/// A value is out of its range, or a name is not one of a cgroup file.
pub fn resources(request: &cri::LinuxContainerResources) -> Result<Resources> {
    let cpu_period = match request.cpu_period {
        0 => None,
        period if CPU_PERIOD_US.contains(&period) => u64::try_from(period).ok(),
        period => {
            return Err(Fault::invalid(format!(
                "cpu_period {period} is not from 1000 to 1000000"
            )));
        }
    };
    let cpu_quota = match request.cpu_quota {
        0 => None,
        quota if quota < 0 => Some(-1),
        quota if quota < CPU_QUOTA_US_MIN => {
            return Err(Fault::invalid(format!(
                "cpu_quota {quota} is less than {CPU_QUOTA_US_MIN}"
            )));
        }
        quota => Some(quota),
    };
    let cpu_shares = match u64::try_from(request.cpu_shares) {
        Ok(0) => None,
        Ok(shares) => Some(shares.clamp(*CPU_SHARES.start(), *CPU_SHARES.end())),
        Err(_) => {
            return Err(Fault::invalid(format!(
                "cpu_shares {} is negative",
                request.cpu_shares
            )));
        }
    };
    let memory_limit = bytes(request.memory_limit_in_bytes);
    let memory_swap = bytes(request.memory_swap_limit_in_bytes);
    if let (Some(limit), Some(swap)) = (memory_limit, memory_swap)
        && swap >= 0
        && (limit < 0 || swap < limit)
    {
        return Err(Fault::invalid(format!(
            "memory_swap_limit_in_bytes {swap} is less than memory_limit_in_bytes {limit}"
        )));
    }
    if !OOM_SCORE_ADJ.contains(&request.oom_score_adj) {
        return Err(Fault::invalid(format!(
            "oom_score_adj {} is not from -1000 to 1000",
            request.oom_score_adj
        )));
    }
    Ok(Resources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit,
        memory_swap,
        oom_score_adj: i32::try_from(request.oom_score_adj).ok(),
        cpuset_cpus: cpuset("cpuset_cpus", &request.cpuset_cpus)?,
        cpuset_mems: cpuset("cpuset_mems", &request.cpuset_mems)?,
        hugepages: hugepages(&request.hugepage_limits)?,
        unified: unified(&request.unified)?,
    })
}

/// The answer of status calls: the same numbers, zero for what was not asked for.
#[must_use]
pub fn answer(resources: &Resources) -> cri::LinuxContainerResources {
    let signed = |value: Option<u64>| value.and_then(|v| i64::try_from(v).ok()).unwrap_or(0);
    cri::LinuxContainerResources {
        cpu_period: signed(resources.cpu_period),
        cpu_quota: resources.cpu_quota.unwrap_or(0),
        cpu_shares: signed(resources.cpu_shares),
        memory_limit_in_bytes: resources.memory_limit.unwrap_or(0),
        oom_score_adj: resources.oom_score_adj.map_or(0, i64::from),
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources
            .hugepages
            .iter()
            .map(|(page_size, &limit)| cri::HugepageLimit {
                page_size: page_size.clone(),
                limit,
            })
            .collect(),
        unified: resources.unified.clone().into_iter().collect(),
        memory_swap_limit_in_bytes: resources.memory_swap.unwrap_or(0),
    }
}

fn bytes(value: i64) -> Option<i64> {
    match value {
        0 => None,
        negative if negative < 0 => Some(-1),
        limit => Some(limit),
    }
}

fn cpuset(field: &str, value: &str) -> Result<String> {
    field::line(field, value, limits::TEXT_BYTES_MAX)?;
    if value
        .chars()
        .any(|c| !(c.is_ascii_digit() || c == '-' || c == ','))
    {
        return Err(Fault::invalid(format!(
            "{field} {value:?} is not a list like \"0-3,7\""
        )));
    }
    Ok(value.to_owned())
}

fn hugepages(limits: &[cri::HugepageLimit]) -> Result<BTreeMap<String, u64>> {
    let mut out = BTreeMap::new();
    for limit in limits {
        let size = &limit.page_size;
        let digits = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit));
        if !digits.is_some_and(|d| !d.is_empty() && d.len() <= 4 && d.bytes().all(|b| b.is_ascii_digit())) {
            return Err(Fault::invalid(format!(
                "hugepage page_size {size:?} is not like \"2MB\""
            )));
        }
        out.insert(size.clone(), limit.limit);
    }
    Ok(out)
}

/// `memory.high` and the like. `cgroup.*` files move processes and controllers: not settings.
fn unified<'a>(
    entries: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for (key, value) in entries {
        let plain = key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_' || b == b'-');
        let shaped = !key.starts_with('.') && key.contains('.') && !key.contains("..") && key.len() < 128;
        if !plain || !shaped || key.starts_with("cgroup.") {
            return Err(Fault::invalid(format!(
                "unified {key:?} is not a setting of a cgroup controller"
            )));
        }
        out.insert(
            key.clone(),
            field::text("unified", value, limits::PATH_BYTES_MAX)?.to_owned(),
        );
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_unset_and_negative_is_unlimited() {
        let request = cri::LinuxContainerResources {
            memory_limit_in_bytes: -5,
            cpu_quota: -7,
            ..Default::default()
        };
        let got = resources(&request).unwrap();
        assert_eq!(
            (got.memory_limit, got.cpu_quota, got.cpu_period),
            (Some(-1), Some(-1), None)
        );
        assert_eq!(got.oom_score_adj, Some(0));
    }

    #[test]
    fn refuses_nonsense() {
        type Request = cri::LinuxContainerResources;
        let cases: Vec<(&str, Request)> = vec![
            (
                "period",
                Request {
                    cpu_period: 10,
                    ..Default::default()
                },
            ),
            (
                "period",
                Request {
                    cpu_period: -10,
                    ..Default::default()
                },
            ),
            (
                "quota",
                Request {
                    cpu_quota: 5,
                    ..Default::default()
                },
            ),
            (
                "shares",
                Request {
                    cpu_shares: -1,
                    ..Default::default()
                },
            ),
            (
                "oom",
                Request {
                    oom_score_adj: 1001,
                    ..Default::default()
                },
            ),
            (
                "cpus",
                Request {
                    cpuset_cpus: "0\n1".into(),
                    ..Default::default()
                },
            ),
            (
                "swap",
                Request {
                    memory_limit_in_bytes: 100,
                    memory_swap_limit_in_bytes: 50,
                    ..Default::default()
                },
            ),
            (
                "cgroup",
                Request {
                    unified: [("cgroup.procs".into(), "1".into())].into(),
                    ..Default::default()
                },
            ),
            (
                "slash",
                Request {
                    unified: [("../memory.max".into(), "1".into())].into(),
                    ..Default::default()
                },
            ),
            (
                "page",
                Request {
                    hugepage_limits: vec![cri::HugepageLimit {
                        page_size: "../2MB".into(),
                        limit: 1,
                    }],
                    ..Default::default()
                },
            ),
        ];
        for (name, request) in cases {
            assert!(resources(&request).is_err(), "{name}");
        }
    }

    #[test]
    fn answers_what_was_asked() {
        let request = cri::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 1 << 30,
            memory_swap_limit_in_bytes: 1 << 30,
            oom_score_adj: -3,
            cpuset_cpus: "0-1".into(),
            hugepage_limits: vec![cri::HugepageLimit {
                page_size: "2MB".into(),
                limit: 9,
            }],
            ..Default::default()
        };
        assert_eq!(answer(&resources(&request).unwrap()), request);
    }
}
