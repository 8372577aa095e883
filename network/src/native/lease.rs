//! Leases of addresses, in the files of the `host-local` plugin.
//!
//! `<dataDir>/<network>/<address>` holds `<container id>\r\n<interface>`, `last_reserved_ip.<n>` the address
//! that range set `n` gave last, and `lock` is held with flock(2) while leases are taken. The Go plugin
//! and this code may be mixed on one folder.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::{Error, Result};

/// Nobody holds the lock longer than it takes to make a file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_micros(200);

/// A block of addresses with a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) subnet: IpNet,
    pub(crate) start: IpAddr,
    pub(crate) end: IpAddr,
    pub(crate) gateway: IpAddr,
}

/// An address for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// With the subnet's prefix length.
    pub(crate) address: IpNet,
    pub(crate) gateway: IpAddr,
}

fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(v4.to_bits().wrapping_add(1).into()),
        IpAddr::V6(v6) => IpAddr::V6(v6.to_bits().wrapping_add(1).into()),
    }
}

impl Range {
    /// Fills in what is not given, as the plugin does: the gateway is the first address, the range is
    /// the subnet without network and broadcast addresses.
    ///
    /// # Errors
    /// What is given does not fit the subnet.
    pub(crate) fn new(
        subnet: IpNet,
        start: Option<IpAddr>,
        end: Option<IpAddr>,
        gateway: Option<IpAddr>,
    ) -> std::result::Result<Self, String> {
        if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
            return Err(format!("subnet {subnet} is too small to allocate from"));
        }
        if subnet.addr() != subnet.network() {
            return Err(format!(
                "subnet {subnet} has host bits; its network is {}",
                subnet.trunc()
            ));
        }
        let last = match subnet {
            IpNet::V4(v4) => IpAddr::V4((v4.broadcast().to_bits() - 1).into()),
            IpNet::V6(v6) => IpAddr::V6(v6.broadcast()),
        };
        let first = next(subnet.network());
        let range = Self {
            subnet,
            start: start.unwrap_or(first),
            end: end.unwrap_or(last),
            gateway: gateway.unwrap_or(first),
        };
        for (name, address) in [("rangeStart", range.start), ("rangeEnd", range.end)] {
            if !subnet.contains(&address) {
                return Err(format!("{name} {address} is not in subnet {subnet}"));
            }
        }
        if value(range.start) > value(range.end) {
            return Err(format!(
                "rangeStart {} is after rangeEnd {}",
                range.start, range.end
            ));
        }
        Ok(range)
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start) || self.contains(other.end) || other.contains(self.start)
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.subnet.contains(&address) && (value(self.start)..=value(self.end)).contains(&value(address))
    }
}

/// The leases of one network.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error(format!("{what} {}: {error}", path.display()))
}

fn owner(id: &str, interface: &str) -> String {
    format!("{id}\r\n{interface}")
}

impl Store {
    /// The leases of `network` in `data_dir`.
    pub(crate) fn new(data_dir: &Path, network: &str) -> Self {
        Self {
            dir: data_dir.join(network),
        }
    }

    fn lock(&self) -> Result<File> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.dir)
            .map_err(|error| failed("make folder", &self.dir, &error))?;
        let path = self.dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| failed("open", &path, &error))?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_POLL)
                }
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(Error(format!(
                        "{} was held by another for {LOCK_TIMEOUT:?}",
                        path.display()
                    )));
                }
                Err(fs::TryLockError::Error(error)) => return Err(failed("lock", &path, &error)),
            }
        }
    }

    /// One address of every range set, or none at all.
    pub(crate) fn lease(&self, sets: &[Vec<Range>], id: &str, interface: &str) -> Result<Vec<Lease>> {
        let lock = self.lock()?;
        let mut leases = Vec::new();
        for (at, set) in sets.iter().enumerate() {
            match self.lease_one(set, at, id, interface) {
                Ok(lease) => leases.push(lease),
                Err(error) => {
                    let taken: Vec<IpAddr> =
                        leases.iter().map(|lease: &Lease| lease.address.addr()).collect();
                    self.release_known(&taken, id, interface)?;
                    return Err(error);
                }
            }
        }
        drop(lock);
        Ok(leases)
    }

    fn lease_one(&self, set: &[Range], at: usize, id: &str, interface: &str) -> Result<Lease> {
        let last_path = self.dir.join(format!("last_reserved_ip.{at}"));
        let last = fs::read_to_string(&last_path)
            .ok()
            .and_then(|text| text.trim().parse::<IpAddr>().ok());
        for (range, address) in candidates(set, last) {
            if !self.reserve(address, id, interface)? {
                continue;
            }
            // Only where to look next: no reason to fail.
            if let Err(error) = write_private(&last_path, address.to_string().as_bytes()) {
                tracing::warn!(path = %last_path.display(), %error, "the last leased address was not noted");
            }
            let address = IpNet::new(address, range.subnet.prefix_len())
                .map_err(|error| Error(format!("lease {address} of {}: {error}", range.subnet)))?;
            return Ok(Lease {
                address,
                gateway: range.gateway,
            });
        }
        let ranges: Vec<String> = set
            .iter()
            .map(|range| format!("{}-{}", range.start, range.end))
            .collect();
        Err(Error(format!(
            "no address is free in {} of {}",
            ranges.join(", "),
            self.dir.display()
        )))
    }

    fn reserve(&self, address: IpAddr, id: &str, interface: &str) -> Result<bool> {
        let path = self.dir.join(address.to_string());
        let mut file = match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
        {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(failed("make lease", &path, &error)),
        };
        if let Err(error) = file.write_all(owner(id, interface).as_bytes()) {
            // A lease without an owner would be kept forever.
            let removed = fs::remove_file(&path);
            tracing::debug!(?removed, path = %path.display(), "a half written lease was taken back");
            return Err(failed("write lease", &path, &error));
        }
        Ok(true)
    }

    /// Frees these addresses as far as they are the pod's.
    pub(crate) fn release_known(&self, addresses: &[IpAddr], id: &str, interface: &str) -> Result<()> {
        for address in addresses {
            let path = self.dir.join(address.to_string());
            if fs::read(&path).is_ok_and(|content| content.trim_ascii() == owner(id, interface).as_bytes()) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// The leases of the folder: address, container id, interface (empty in files of old plugins).
    pub(crate) fn all(&self) -> Result<Vec<(IpAddr, String, String)>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read folder", &self.dir, &error)),
        };
        let mut leases = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed("read folder", &self.dir, &error))?;
            let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let Ok(content) = fs::read_to_string(entry.path()) else {
                continue;
            };
            let (id, interface) = content.trim().split_once("\r\n").unwrap_or((content.trim(), ""));
            leases.push((address, id.to_owned(), interface.to_owned()));
        }
        Ok(leases)
    }

    /// The addresses of a pod, by a walk over all leases.
    pub(crate) fn of(&self, id: &str, interface: &str) -> Result<Vec<IpAddr>> {
        let mine =
            |lease: &(IpAddr, String, String)| lease.1 == id && (lease.2 == interface || lease.2.is_empty());
        Ok(self
            .all()?
            .into_iter()
            .filter(mine)
            .map(|lease| lease.0)
            .collect())
    }

    /// Frees an address whoever has it.
    pub(crate) fn free(&self, address: IpAddr) -> Result<()> {
        remove(&self.dir.join(address.to_string()))
    }

    /// Removes the folder.
    pub(crate) fn wipe(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("remove folder", &self.dir, &error))
            }
            _ => Ok(()),
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove lease", path, &error))
        }
        _ => Ok(()),
    }
}

/// Writes over what is there: to truncate first can wait for the file system's journal.
fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    let length = content.len() as u64;
    if file.metadata()?.len() == length {
        Ok(())
    } else {
        file.set_len(length)
    }
}

/// The addresses of a set in the order in which they are tried: round robin from the last one, so that
/// an address is used again as late as possible. Gateways are left out.
fn candidates(set: &[Range], last: Option<IpAddr>) -> impl Iterator<Item = (&Range, IpAddr)> {
    let (mut at, begin) = last
        .and_then(|last| Some((set.iter().position(|range| range.contains(last))?, last)))
        .map_or((0, None), |(at, last)| (at, Some(last)));
    let mut current = begin;
    let mut first = None;
    std::iter::from_fn(move || {
        loop {
            let range = set.get(at)?;
            let (range, address) = match current {
                None => (range, range.start),
                Some(address) if address == range.end => {
                    at = (at + 1) % set.len();
                    (&set[at], set[at].start)
                }
                Some(address) => (range, next(address)),
            };
            if first == Some(address) {
                return None;
            }
            first.get_or_insert(address);
            current = Some(address);
            if address != range.gateway {
                return Some((range, address));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn range(subnet: &str, start: &str, end: &str) -> Range {
        Range::new(subnet.parse().unwrap(), Some(ip(start)), Some(ip(end)), None).unwrap()
    }

    fn tried(set: &[Range], last: Option<&str>) -> Vec<String> {
        candidates(set, last.map(ip))
            .map(|(_, address)| address.to_string())
            .collect()
    }

    #[test]
    fn addresses_go_round() {
        let set = [
            range("10.0.0.0/24", "10.0.0.1", "10.0.0.3"),
            range("10.1.0.0/24", "10.1.0.2", "10.1.0.3"),
        ];
        assert_eq!(
            tried(&set, None),
            ["10.0.0.2", "10.0.0.3", "10.1.0.2", "10.1.0.3"],
            "the gateway is left out"
        );
        assert_eq!(
            tried(&set, Some("10.1.0.2")),
            ["10.1.0.3", "10.0.0.2", "10.0.0.3", "10.1.0.2"]
        );
        assert_eq!(
            tried(&set, Some("192.0.2.1")),
            tried(&set, None),
            "of another configuration"
        );
        assert!(
            tried(&[range("10.0.0.0/24", "10.0.0.1", "10.0.0.1")], None).is_empty(),
            "only the gateway"
        );
        assert_eq!(
            tried(&[range("10.0.0.0/24", "10.0.0.9", "10.0.0.9")], Some("10.0.0.9")),
            ["10.0.0.9"]
        );
    }

    #[test]
    fn defaults_are_the_plugins() {
        let of = |subnet: &str| Range::new(subnet.parse().unwrap(), None, None, None);
        let v4 = of("10.0.0.0/24").unwrap();
        assert_eq!(
            (v4.start, v4.end, v4.gateway),
            (ip("10.0.0.1"), ip("10.0.0.254"), ip("10.0.0.1"))
        );
        let v6 = of("fd00::/64").unwrap();
        assert_eq!(
            (v6.start, v6.end),
            (ip("fd00::1"), ip("fd00::ffff:ffff:ffff:ffff"))
        );
        for bad in ["10.0.0.0/31", "10.0.0.1/24", "fd00::/127"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(Range::new("10.0.0.0/24".parse().unwrap(), Some(ip("10.0.1.1")), None, None).is_err());
        assert!(Range::new("10.0.0.0/24".parse().unwrap(), Some(ip("fd00::1")), None, None).is_err());
    }

    #[test]
    fn one_set_that_is_full_gives_the_others_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "net");
        let sets = [
            vec![range("10.0.0.0/24", "10.0.0.5", "10.0.0.9")],
            vec![range("10.1.0.0/24", "10.1.0.2", "10.1.0.2")],
        ];
        store.lease(&sets, "one", "eth0").unwrap();
        assert_eq!(
            std::fs::read(dir.path().join("net/10.0.0.5")).unwrap(),
            b"one\r\neth0"
        );
        store.lease(&sets, "two", "eth0").unwrap_err();
        assert!(store.of("two", "eth0").unwrap().is_empty());
        store.release_known(&[ip("10.0.0.5")], "two", "eth0").unwrap();
        assert_eq!(
            store.of("one", "eth0").unwrap().len(),
            2,
            "another's lease is not freed"
        );
        std::fs::write(dir.path().join("net/10.0.0.7"), "old").unwrap();
        assert_eq!(
            store.of("old", "eth0").unwrap(),
            [ip("10.0.0.7")],
            "without an interface"
        );
    }
}
