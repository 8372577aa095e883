//! The namespaces of a plan with their descriptors, and whose ids the container sees.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use criquet_proto::shim::{IdMap, Namespace, Plan, namespace};
use criquet_sys::namespace as sys_namespace;

use crate::child::Failure;

/// What happens to one kind of namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Space<'a> {
    New,
    Host,
    Join(BorrowedFd<'a>),
}

impl<'a> Space<'a> {
    fn of(namespace: Option<&Namespace>, fds: &'a [OwnedFd]) -> Result<Self, Failure> {
        let Some(namespace) = namespace else {
            return Ok(Self::Host);
        };
        Ok(match namespace.kind() {
            namespace::Kind::New => Self::New,
            namespace::Kind::Host => Self::Host,
            namespace::Kind::Join => {
                let fd = usize::try_from(namespace.fd).ok().and_then(|i| fds.get(i));
                Self::Join(
                    fd.ok_or_else(|| {
                        Failure::invalid(format!("no descriptor {} for a namespace", namespace.fd))
                    })?
                    .as_fd(),
                )
            }
        })
    }

    pub(crate) fn is_new(self) -> bool {
        matches!(self, Self::New)
    }

    pub(crate) fn joined(self) -> Option<BorrowedFd<'a>> {
        if let Self::Join(fd) = self { Some(fd) } else { None }
    }
}

/// The plan's namespaces.
#[derive(Debug)]
pub(crate) struct Spaces<'a> {
    pub(crate) net: Space<'a>,
    pub(crate) ipc: Space<'a>,
    pub(crate) uts: Space<'a>,
    pub(crate) pid: Space<'a>,
    pub(crate) cgroup: Space<'a>,
    /// The joined user namespace.
    pub(crate) user: Option<BorrowedFd<'a>>,
    pub(crate) ids: Ids<'a>,
}

/// The host's numbers of the container's users and groups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ids<'a> {
    /// Whether there is a user namespace.
    pub(crate) mapped: bool,
    uids: &'a [IdMap],
    gids: &'a [IdMap],
}

impl<'a> Ids<'a> {
    pub(crate) fn of(plan: &'a Plan) -> Result<Self, Failure> {
        let spaces = plan
            .namespaces
            .as_ref()
            .ok_or_else(|| Failure::invalid("a plan without namespaces"))?;
        let mapped = spaces
            .user
            .as_ref()
            .is_some_and(|user| user.kind() == namespace::Kind::Join);
        let ids = Self {
            mapped,
            uids: &spaces.uid_maps,
            gids: &spaces.gid_maps,
        };
        if ids.uid(0).is_none() || ids.gid(0).is_none() {
            return Err(Failure::invalid("a user namespace without a root"));
        }
        Ok(ids)
    }

    fn uid(&self, uid: u32) -> Option<u32> {
        if self.mapped {
            map(self.uids, uid)
        } else {
            Some(uid)
        }
    }

    fn gid(&self, gid: u32) -> Option<u32> {
        if self.mapped {
            map(self.gids, gid)
        } else {
            Some(gid)
        }
    }

    /// Whether a group of the container exists.
    pub(crate) fn has_gid(&self, gid: u32) -> bool {
        self.gid(gid).is_some()
    }

    /// Both numbers, where an id that has none on the host belongs to the container's root.
    pub(crate) fn host_owner(&self, uid: u32, gid: u32) -> (u32, u32) {
        let or_root = |id: Option<u32>, root: Option<u32>| id.or(root).unwrap_or(0);
        (
            or_root(self.uid(uid), self.uid(0)),
            or_root(self.gid(gid), self.gid(0)),
        )
    }
}

impl<'a> Spaces<'a> {
    pub(crate) fn of(plan: &'a Plan, fds: &'a [OwnedFd]) -> Result<Self, Failure> {
        let spaces = plan
            .namespaces
            .as_ref()
            .ok_or_else(|| Failure::invalid("a plan without namespaces"))?;
        let of = |namespace: &Option<Namespace>| Space::of(namespace.as_ref(), fds);
        let user = of(&spaces.user)?;
        if user.is_new() {
            return Err(Failure::invalid(
                "a user namespace is joined or the host's, never new",
            ));
        }
        Ok(Self {
            net: of(&spaces.network)?,
            ipc: of(&spaces.ipc)?,
            uts: of(&spaces.uts)?,
            pid: of(&spaces.pid)?,
            cgroup: of(&spaces.cgroup)?,
            user: user.joined(),
            ids: Ids::of(plan)?,
        })
    }

    /// sysfs belongs to a network namespace; the host's cannot be mounted with a user namespace's rights.
    pub(crate) fn needs_host_sysfs(&self) -> bool {
        self.user.is_some() && matches!(self.net, Space::Host)
    }

    /// A user namespace with these maps: the joined one where they are the same.
    pub(crate) fn mapping(&self, uids: &[IdMap], gids: &[IdMap]) -> Result<OwnedFd, Failure> {
        if let Some(user) = self
            .user
            .filter(|_| uids == self.ids.uids && gids == self.ids.gids)
        {
            let copy = user.try_clone_to_owned();
            return copy.map_err(|e| criquet_sys::Error::new("fcntl", "user namespace", e).into());
        }
        let list = |maps: &[IdMap]| {
            let one = |m: &IdMap| sys_namespace::IdMap {
                container: m.container_id,
                host: m.host_id,
                length: m.length,
            };
            maps.iter().map(one).collect()
        };
        let maps = sys_namespace::Maps {
            uids: list(uids),
            gids: list(gids),
        };
        let made = sys_namespace::create(sys_namespace::Kinds::default(), Some(&maps))?;
        made.user
            .ok_or_else(|| Failure::invalid("no user namespace was made"))
    }
}

fn map(maps: &[IdMap], id: u32) -> Option<u32> {
    maps.iter().find_map(|m| {
        let offset = id
            .checked_sub(m.container_id)
            .filter(|offset| *offset < m.length)?;
        m.host_id.checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_by_ranges() {
        let range = |container_id, host_id, length| IdMap {
            container_id,
            host_id,
            length,
        };
        let maps = [range(0, 100_000, 10), range(10, 5, 1), range(20, u32::MAX, 2)];
        assert_eq!(map(&maps, 9), Some(100_009));
        assert_eq!(map(&maps, 10), Some(5));
        assert_eq!(map(&maps, 11), None);
        assert_eq!(map(&maps, 21), None);
    }

    #[test]
    fn plans_that_contradict_themselves_are_refused() {
        let join = Namespace {
            kind: namespace::Kind::Join.into(),
            fd: 3,
        };
        let mut namespaces = criquet_proto::shim::Namespaces {
            network: Some(join),
            ..Default::default()
        };
        let plan = Plan {
            namespaces: Some(namespaces.clone()),
            ..Default::default()
        };
        assert!(Spaces::of(&plan, &[]).is_err());
        namespaces = criquet_proto::shim::Namespaces {
            user: Some(Namespace::default()),
            ..Default::default()
        };
        let plan = Plan {
            namespaces: Some(namespaces),
            ..Default::default()
        };
        assert!(Spaces::of(&plan, &[]).is_err());
    }
}
