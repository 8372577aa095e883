//! passwd(5) and group(5), as an image brings them: nothing in them is trusted beyond its syntax.

/// A line of /etc/passwd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home folder, as it stands there.
    pub home: Vec<u8>,
}

/// A line of /etc/group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Group id.
    pub gid: u32,
    /// Login names.
    pub members: Vec<String>,
}

/// A number that is an id: digits only, in range, and not the kernel's "no change".
fn id(field: &[u8]) -> Option<u32> {
    if field.is_empty() || !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(field)
        .ok()?
        .parse::<u32>()
        .ok()
        .filter(|&id| id != u32::MAX)
}

fn text(field: &[u8]) -> Option<String> {
    std::str::from_utf8(field)
        .ok()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

fn lines(content: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    content
        .split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(|line| line.split(|&byte| byte == b':').collect())
}

/// All well-formed lines of /etc/passwd, in order.
#[must_use]
pub fn users(content: &[u8]) -> Vec<User> {
    lines(content)
        .filter_map(|fields| match fields.as_slice() {
            [name, _, uid, gid, rest @ ..] => Some(User {
                name: text(name)?,
                uid: id(uid)?,
                gid: id(gid)?,
                home: rest
                    .get(1)
                    .copied()
                    .filter(|home| !home.contains(&0))
                    .unwrap_or_default()
                    .to_vec(),
            }),
            _ => None,
        })
        .collect()
}

/// All well-formed lines of /etc/group, in order.
#[must_use]
pub fn groups(content: &[u8]) -> Vec<Group> {
    lines(content)
        .filter_map(|fields| match fields.as_slice() {
            [name, _, gid, rest @ ..] => Some(Group {
                name: text(name)?,
                gid: id(gid)?,
                members: rest
                    .first()
                    .copied()
                    .unwrap_or_default()
                    .split(|&byte| byte == b',')
                    .filter_map(|name| text(name.trim_ascii()))
                    .collect(),
            }),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_lines_are_left_out() {
        let content = b"root:x:0:0:root:/root:/bin/sh\n# c\n\nbad\nwrap:x:4294967296:0::/:\nneg:x:-1:0::/:\n\
            sign:x:+0:0::/:\nmax:x:4294967295:0::/:\nshort:x:5:6\n:x:7:7::/:\n\xff:x:8:8::/:\n";
        let users = users(content);
        let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
        assert_eq!(names, ["root", "short"]);
        assert_eq!(users[0].home, b"/root");
        assert_eq!((users[1].uid, users[1].gid, users[1].home.len()), (5, 6, 0));
    }

    #[test]
    fn group_members() {
        let groups = groups(b"wheel:x:10:root, admin,\nnone:x:11:\nshort:x:12\nx:x:y:z\n");
        assert_eq!(groups.len(), 3);
        assert_eq!(groups[0].members, ["root", "admin"]);
        assert!(groups[1].members.is_empty() && groups[2].members.is_empty());
    }
}
