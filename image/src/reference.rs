//! Names of images, as people write them and as registries and kubelet know them.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::{Error, ErrorKind, Result};

/// The registry of names that name none.
const DOCKER: &str = "docker.io";
/// Where docker.io keeps the images that name no user.
const OFFICIAL: &str = "library/";
/// The tag of names without one.
const LATEST: &str = "latest";
/// Registry and repository together, as the distribution project's grammar caps them.
const NAME_MAX: usize = 255;
/// A tag, by the same grammar.
const TAG_MAX: usize = 128;

/// A normalised image name: `busybox` is `docker.io/library/busybox:latest`. It has a tag or a digest; of a
/// name that has both, the digest counts and the tag is dropped, as everywhere in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Host and maybe port: `docker.io`, `localhost:5000`, `[::1]:5000`. Lower case.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; none when there is a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `docker.io/library/busybox`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `docker.io/library/busybox:latest`; none when there is no tag.
    #[must_use]
    pub fn with_tag(&self) -> Option<String> {
        self.tag
            .as_ref()
            .map(|tag| format!("{}/{}:{tag}", self.registry, self.repository))
    }

    /// `docker.io/library/busybox@sha256:…`.
    #[must_use]
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.registry, self.repository)
    }

    /// What stands for the manifest in a registry's URL: the digest, or the tag.
    #[must_use]
    pub fn manifest_name(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => LATEST,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "@{digest}"),
            (None, Some(tag)) => write!(f, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|why| {
            let shown: String = text.chars().take(NAME_MAX).collect();
            Error::new(ErrorKind::Invalid, format!("invalid image name {shown:?}: {why}"))
        })
    }
}

fn parse(text: &str) -> std::result::Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|e| e.to_string())?)),
        None => (text, None),
    };
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].rfind(':') {
        Some(at) => (&rest[..slash + at], Some(&rest[slash + at + 1..])),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, repository) = split_registry(name);
    let registry = registry.to_ascii_lowercase();
    check_registry(&registry)?;
    let repository = if registry == DOCKER && !repository.contains('/') {
        format!("{OFFICIAL}{repository}")
    } else {
        repository.to_owned()
    };
    check_repository(&repository)?;
    if registry.len() + 1 + repository.len() > NAME_MAX {
        return Err(format!("it is longer than {NAME_MAX} characters"));
    }
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("it looks like an image id".into());
    }
    let tag = match (&digest, tag) {
        (Some(_), _) => None,
        (None, tag) => Some(tag.unwrap_or(LATEST).to_owned()),
    };
    Ok(Reference {
        registry,
        repository,
        tag,
        digest,
    })
}

/// The first component is a registry when it cannot be a user of docker.io.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io" | DOCKER, rest)) => (DOCKER, rest),
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DOCKER, name),
    }
}

fn check_tag(tag: &str) -> std::result::Result<(), String> {
    let bytes = tag.as_bytes();
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    if bytes.is_empty() || bytes.len() > TAG_MAX {
        return Err(format!("a tag has 1 to {TAG_MAX} characters"));
    }
    if !word(&bytes[0]) || !bytes.iter().all(|b| word(b) || matches!(b, b'.' | b'-')) {
        return Err("a tag has only letters, digits, `_`, `.` and `-`".into());
    }
    Ok(())
}

fn check_registry(registry: &str) -> std::result::Result<(), String> {
    let (host, port) = split_port(registry);
    if let Some(port) = port
        && (port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err())
    {
        return Err("the port of the registry is not a number up to 65535".into());
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return inner
            .parse::<std::net::Ipv6Addr>()
            .map(|_| ())
            .map_err(|_| "the registry is not an IPv6 address".into());
    }
    let good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.split('.').all(good) {
        Ok(())
    } else {
        Err("the registry is not a host name".into())
    }
}

fn check_repository(repository: &str) -> std::result::Result<(), String> {
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository must be lower case".into());
    }
    if repository.split('/').all(is_path_component) {
        return Ok(());
    }
    Err("the repository has only lower-case letters and digits, single `.`, `_`, `__` or `-` between them, and `/`"
        .into())
}

/// `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    alphanumeric(first)
        && alphanumeric(last)
        && bytes.split(|b| alphanumeric(*b)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
        })
}

/// `host:port` to its halves; the brackets of an IPv6 address stay.
pub(crate) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rfind(':') {
        Some(at) if !authority[at..].contains(']') => (&authority[..at], Some(&authority[at + 1..])),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn normalised() {
        let at = format!("@sha256:{HEX}");
        for (text, want) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".into()),
            ("user/app", "docker.io/user/app:latest".into()),
            ("docker.io/busybox", "docker.io/library/busybox:latest".into()),
            (
                "index.docker.io/library/busybox",
                "docker.io/library/busybox:latest".into(),
            ),
            ("localhost/app", "localhost/app:latest".into()),
            ("localhost:5000/a/b/c:v1", "localhost:5000/a/b/c:v1".into()),
            ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest".into()),
            ("[::1]:5000/app:x", "[::1]:5000/app:x".into()),
            ("[2001:db8::1]/app", "[2001:db8::1]/app:latest".into()),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9".into()),
            (
                "Registry.Example.COM/app",
                "registry.example.com/app:latest".into(),
            ),
            (
                "quay.io/a_b/c__d/e-f---g/h.i",
                "quay.io/a_b/c__d/e-f---g/h.i:latest".into(),
            ),
            (&format!("busybox{at}"), format!("docker.io/library/busybox{at}")),
            (
                &format!("busybox:1.36{at}"),
                format!("docker.io/library/busybox{at}"),
            ),
            ("sha256:1234", "docker.io/library/sha256:1234".into()),
        ] {
            let reference: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.to_string(), want, "{text}");
            assert_eq!(
                want.parse::<Reference>().unwrap(),
                reference,
                "{text}: not stable"
            );
        }
    }

    #[test]
    fn forms() {
        let tagged: Reference = "busybox:1".parse().unwrap();
        assert_eq!(tagged.name(), "docker.io/library/busybox");
        assert_eq!(tagged.with_tag().unwrap(), "docker.io/library/busybox:1");
        let digest = Digest::of(b"");
        assert_eq!(
            tagged.with_digest(&digest),
            format!("docker.io/library/busybox@{digest}")
        );
        let digested: Reference = format!("busybox:1@{digest}").parse().unwrap();
        assert_eq!((digested.tag(), digested.digest()), (None, Some(&digest)));
        assert_eq!(digested.with_tag(), None);
        assert_eq!(digested.manifest_name(), digest.as_str());
    }

    #[test]
    fn refused() {
        let long = "a".repeat(256);
        let tag = format!("a:{}", "t".repeat(129));
        for text in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ":tag",
            "a:",
            "a:-x",
            "a:.x",
            "a b",
            "A",
            "UPPER/app",
            "a/B",
            "docker.io/A",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a._b",
            "../a",
            "a/../b",
            "a/./b",
            "a\0",
            "a\n",
            "a@",
            "a@sha256:abc",
            "a@sha256:../../x",
            "a@@",
            "host.:5000/a",
            "-h.com/a",
            "h.com:x/a",
            "h.com:70000/a",
            "h.com:/a",
            "h.com:+5/a",
            "[::1/a",
            "[x]/a",
            "[::1]x/a",
            "https://h.com/a",
            "user:pw@h.com/a",
            "h.com/a?x",
            "é",
            HEX,
            &long,
            &tag,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn ports() {
        assert_eq!(split_port("a:1"), ("a", Some("1")));
        assert_eq!(split_port("a"), ("a", None));
        assert_eq!(split_port("[::1]"), ("[::1]", None));
        assert_eq!(split_port("[::1]:2"), ("[::1]", Some("2")));
    }
}
