//! Who the container's processes are: computed once, used by the first process and by every exec.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use criquet_image::Image;

use super::{layered, passwd};
use crate::container::config::{GroupsPolicy, Security};
use crate::fault::{Fault, OrFault, Result};
use crate::limits;

/// Accounts above this many entries are read again each time: the cache is for the usual dozens.
const CACHED_ENTRIES_MAX: usize = 1024;

/// User, groups and home folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// The whole list for setgroups(2), the primary group among them (CVE-2023-25173).
    pub groups: Vec<u32>,
    /// `HOME` unless image or request set it.
    pub home: Vec<u8>,
}

/// What an image's passwd and group files say.
#[derive(Debug, Default)]
pub struct Accounts {
    users: Vec<passwd::User>,
    groups: Vec<passwd::Group>,
}

/// One half of `USER[:GROUP]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// A number.
    Id(u32),
    /// A name to look up.
    Name(String),
}

/// Reads one half of `USER[:GROUP]`. Digits are a number in range or an error: never a name that an image could
/// map to root (CVE-2024-40635, CVE-2026-46680). Nor is anything a name that looks like a number (`-1`, `0x0`).
///
/// # Errors
/// It is neither.
pub fn account(text: &str) -> Result<Account> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse::<u32>() {
            Ok(id) if id != u32::MAX => Ok(Account::Id(id)),
            _ => Err(Fault::invalid(format!(
                "{text:?} is not an id from 0 to {}",
                u32::MAX - 1
            ))),
        };
    }
    let begins_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !begins_well
        || text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == ':')
    {
        return Err(Fault::invalid(format!("{text:?} is neither an id nor a name")));
    }
    Ok(Account::Name(text.to_owned()))
}

/// The user and group halves of an image's `USER`; an absent half is `None`.
///
/// # Errors
/// A half is neither an id nor a name.
pub fn image_user(text: &str) -> Result<(Option<Account>, Option<Account>)> {
    let half = |text: &str| {
        if text.is_empty() {
            Ok(None)
        } else {
            account(text).map(Some)
        }
    };
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    Ok((half(user)?, half(group)?))
}

/// The identity of a container's processes.
///
/// # Errors
/// A name is in no file of the image, or a file is not readable.
pub fn identity(security: &Security, image: &Image) -> Result<Identity> {
    let doing = |fault: Fault| fault.while_doing(format!("finding the user of image {:?}", image.id));
    let accounts = accounts(&image.id, &image.layers).map_err(doing)?;
    resolve(security, &image.config.user, &accounts).map_err(doing)
}

fn resolve(security: &Security, image_user_text: &str, accounts: &Accounts) -> Result<Identity> {
    let (user, mut group) = match (security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => (Some(Account::Id(uid)), None),
        (None, "") => image_user(image_user_text)?,
        (None, name) => (Some(account(name)?), None),
    };
    if let Some(gid) = security.run_as_group {
        group = Some(Account::Id(gid));
    }
    let entry = match user.as_ref().unwrap_or(&Account::Id(0)) {
        Account::Id(uid) => accounts
            .users
            .iter()
            .find(|entry| entry.uid == *uid)
            .cloned()
            .unwrap_or(passwd::User {
                name: String::new(),
                uid: *uid,
                gid: 0,
                home: Vec::new(),
            }),
        Account::Name(name) => accounts
            .users
            .iter()
            .find(|entry| entry.name == *name)
            .cloned()
            .ok_or_else(|| Fault::invalid(format!("user {name:?} is not in the image's /etc/passwd")))?,
    };
    let gid = match group {
        None => entry.gid,
        Some(Account::Id(gid)) => gid,
        Some(Account::Name(name)) => {
            let found = accounts.groups.iter().find(|group| group.name == name);
            found
                .ok_or_else(|| Fault::invalid(format!("group {name:?} is not in the image's /etc/group")))?
                .gid
        }
    };
    let mut groups = vec![gid];
    let mut add = |gid: u32| {
        if !groups.contains(&gid) {
            groups.push(gid);
        }
    };
    if security.supplemental_groups_policy == GroupsPolicy::Merge && !entry.name.is_empty() {
        let member = |group: &&passwd::Group| group.members.contains(&entry.name);
        accounts
            .groups
            .iter()
            .filter(member)
            .take(limits::GROUPS_MAX)
            .for_each(|group| add(group.gid));
    }
    security.supplemental_groups.iter().for_each(|&gid| add(gid));
    if groups.len() > limits::GROUPS_MAX {
        return Err(Fault::invalid(format!("more than {} groups", limits::GROUPS_MAX)));
    }
    let home = if entry.home.starts_with(b"/") {
        entry.home
    } else {
        b"/".to_vec()
    };
    Ok(Identity {
        uid: entry.uid,
        gid,
        groups,
        home,
    })
}

/// An image's accounts, by image id: layers never change.
static CACHE: LazyLock<Mutex<HashMap<String, Arc<Accounts>>>> = LazyLock::new(Mutex::default);

fn accounts(image_id: &str, layers: &[PathBuf]) -> Result<Arc<Accounts>> {
    if let Some(known) = CACHE.lock().unwrap_or_else(PoisonError::into_inner).get(image_id) {
        return Ok(Arc::clone(known));
    }
    let file = |path: &str| {
        layered::read(layers, path, limits::IDENTITY_FILE_BYTES_MAX)
            .map(Option::unwrap_or_default)
            .or_fault(crate::fault::Kind::Invalid, || {
                format!("reading the image's {path}")
            })
    };
    let users = passwd::users(&file("/etc/passwd")?);
    let groups = passwd::groups(&file("/etc/group")?);
    let accounts = Arc::new(Accounts { users, groups });
    if !image_id.is_empty() && accounts.users.len() + accounts.groups.len() <= CACHED_ENTRIES_MAX {
        let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= limits::IDENTITY_CACHE_ENTRIES_MAX {
            cache.clear();
        }
        cache.insert(image_id.to_owned(), Arc::clone(&accounts));
    }
    Ok(accounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            users: passwd::users(
                b"root:x:0:0::/root:\napp:x:1000:1001::/home/app:\n4294967296:x:0:0::/:\n-1:x:0:0::/:\n0x0:x:0:0::/:\n",
            ),
            groups: passwd::groups(b"root:x:0:\nwheel:x:10:app,root\ndev:x:50:app\n4294967296:x:0:\n"),
        }
    }

    fn who(security: &Security, image: &str) -> Result<Identity> {
        resolve(security, image, &accounts())
    }

    #[test]
    fn users_of_images() {
        let cases: [(&str, u32, u32, &[u32], &str); 9] = [
            ("", 0, 0, &[0, 10], "/root"),
            ("app", 1000, 1001, &[1001, 10, 50], "/home/app"),
            ("1000", 1000, 1001, &[1001, 10, 50], "/home/app"),
            ("1000:0", 1000, 0, &[0, 10, 50], "/home/app"),
            ("app:wheel", 1000, 10, &[10, 50], "/home/app"),
            ("4000", 4000, 0, &[0], "/"),
            ("4294967294", 4_294_967_294, 0, &[0], "/"),
            (":wheel", 0, 10, &[10], "/root"),
            ("00", 0, 0, &[0, 10], "/root"),
        ];
        for (image, uid, gid, groups, home) in cases {
            let got = who(&Security::default(), image).unwrap();
            assert_eq!(
                (got.uid, got.gid, got.groups.as_slice()),
                (uid, gid, groups),
                "{image}"
            );
            assert_eq!(got.home, home.as_bytes(), "{image}");
        }
    }

    #[test]
    fn numbers_never_become_names_of_root() {
        for image in [
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "-1",
            "+0",
            "0x0",
            "1000 ",
            " 1000",
            "\u{0661}\u{0660}",
            "1000:4294967296",
            "1000:-1",
            "nobody",
            "app:nogroup",
            "root\n",
        ] {
            assert!(who(&Security::default(), image).is_err(), "{image:?}");
        }
        for name in ["4294967296", "-1", "0x0"] {
            let security = Security {
                run_as_username: name.into(),
                ..Security::default()
            };
            assert!(who(&security, "").is_err(), "{name}");
        }
    }

    #[test]
    fn the_request_wins_over_the_image() {
        let security = Security {
            run_as_user: Some(7),
            run_as_group: Some(8),
            ..Security::default()
        };
        let got = who(&security, "app:dev").unwrap();
        assert_eq!((got.uid, got.gid, got.groups), (7, 8, vec![8]));
        let named = Security {
            run_as_username: "app".into(),
            ..Security::default()
        };
        assert_eq!(who(&named, "root").unwrap().uid, 1000);
        let user_only = Security {
            run_as_user: Some(1000),
            ..Security::default()
        };
        assert_eq!(
            who(&user_only, "0:50").unwrap().gid,
            1001,
            "the image's group belongs to the image's user"
        );
    }

    #[test]
    fn strict_groups_are_only_those_requested() {
        let mut security = Security {
            supplemental_groups: vec![7, 10],
            ..Security::default()
        };
        assert_eq!(who(&security, "app").unwrap().groups, [1001, 10, 50, 7]);
        security.supplemental_groups_policy = GroupsPolicy::Strict;
        assert_eq!(who(&security, "app").unwrap().groups, [1001, 7, 10]);
    }

    #[test]
    fn reads_the_layers() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "web:x:33:33::/www:\n").unwrap();
        let image = Image {
            id: "sha256:identity-test".into(),
            repo_tags: vec![],
            repo_digests: vec![],
            size: 1,
            pinned: false,
            config: criquet_image::ImageConfig {
                user: "web".into(),
                ..Default::default()
            },
            layers: vec![dir.path().to_owned()],
            config_json: "".into(),
        };
        for _ in 0..2 {
            let got = identity(&Security::default(), &image).unwrap();
            assert_eq!((got.uid, got.home.as_slice()), (33, b"/www".as_slice()));
        }
    }
}
