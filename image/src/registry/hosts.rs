//! `certs.d/<host>/hosts.toml`: which hosts serve a registry's images, as containerd reads it (its
//! `docs/hosts.md`), and docker's `*.crt`, `*.cert`, `*.key` files where there is no such file.
//!
//! One difference: a malformed file fails the pull. containerd logs it and goes to the registry itself, which
//! is not what somebody wants who configured a mirror instead of it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use crate::limits::HOSTS_FILE_MAX;
use crate::reference::split_port;
use crate::{Error, ErrorKind, Result};

/// Where a host is, without its TLS settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) https: bool,
    /// `host` or `host:port`.
    pub(super) authority: String,
    /// Before `/<repository>/…`; `/v2`, unless overridden.
    pub(super) path: String,
    pub(super) pull: bool,
    pub(super) resolve: bool,
    pub(super) tls: Tls,
    /// TLS is tried first although the scheme is http: its port says nothing, and there are TLS settings.
    pub(super) https_first: bool,
    pub(super) headers: HeaderMap,
}

/// The TLS settings of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) ca: Vec<PathBuf>,
    /// Certificate and key; no second file: the key is in the first.
    pub(super) client: Vec<(PathBuf, Option<PathBuf>)>,
    pub(super) skip_verify: Option<bool>,
    /// `skip_verify` comes from the host being loopback, so it must not go further than this host.
    pub(super) implicit: bool,
}

impl Tls {
    pub(super) fn is_default(&self) -> bool {
        self.ca.is_empty() && self.client.is_empty() && self.skip_verify.is_none()
    }
}

/// The hosts to ask for images of `registry`, in order.
///
/// # Errors
/// `Invalid` for a malformed file, `Internal` when one cannot be read.
pub(super) fn load(root: &Path, registry: &str) -> Result<Vec<Host>> {
    let mut hosts = match directory(root, registry)? {
        Some(directory) => load_directory(&directory)?,
        None => vec![Host::default()],
    };
    if let Some(last) = hosts.last_mut().filter(|host| host.authority.is_empty()) {
        fill_default(last, registry);
    }
    for host in &mut hosts {
        let (_, port) = split_port(&host.authority);
        host.https_first = !host.https && !host.tls.is_default() && port != Some("80");
    }
    Ok(hosts)
}

/// The first of `host_port_`, `host:port`, `_default` that exists.
fn directory(root: &Path, registry: &str) -> Result<Option<PathBuf>> {
    let mut names = Vec::new();
    if let (host, Some(port)) = split_port(registry) {
        names.push(format!("{host}_{port}_"));
    }
    names.extend([registry.to_owned(), "_default".to_owned()]);
    for name in names {
        let path = root.join(name);
        match std::fs::metadata(&path) {
            Ok(_) => return Ok(Some(path)),
            Err(e) if is_absent(&e) => {}
            Err(e) => return Err(unreadable(&path, e)),
        }
    }
    Ok(None)
}

fn load_directory(directory: &Path) -> Result<Vec<Host>> {
    let file = directory.join("hosts.toml");
    let text = match read(&file) {
        Ok(bytes) => bytes,
        Err(e) if is_absent(&e) => Vec::new(),
        Err(e) => return Err(unreadable(&file, e)),
    };
    if text.is_empty() {
        return Ok(vec![Host {
            tls: certificate_files(directory)?,
            ..Host::default()
        }]);
    }
    let invalid = |why: String| Error::new(ErrorKind::Invalid, format!("read {}: {why}", file.display()));
    let text = String::from_utf8(text).map_err(|_| invalid("it is not UTF-8".into()))?;
    parse(&text, directory).map_err(invalid)
}

/// The host that an image name means by itself.
fn fill_default(host: &mut Host, registry: &str) {
    host.https = true;
    host.authority = registry.to_owned();
    if registry == "docker.io" {
        host.authority = "registry-1.docker.io".to_owned();
    } else if is_loopback(registry) {
        let (_, port) = split_port(registry);
        host.https = matches!(port, None | Some("443"));
        if port != Some("80") && host.tls.skip_verify.is_none() {
            host.tls.skip_verify = Some(true);
            host.tls.implicit = true;
        }
    }
    host.path = "/v2".to_owned();
    (host.pull, host.resolve) = (true, true);
}

/// Whether `authority` is localhost or a loopback address.
pub(super) fn is_loopback(authority: &str) -> bool {
    let (host, _) = split_port(authority);
    let host = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    server: String,
    host: BTreeMap<Spanned<String>, Section>,
    #[serde(flatten)]
    section: Section,
}

/// Unknown keys are left alone, as containerd does: files are shared with newer versions.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Section {
    capabilities: Vec<String>,
    ca: Option<OneOrMany<String>>,
    client: Option<OneOrMany<OneOrMany<String>>>,
    skip_verify: Option<bool>,
    header: BTreeMap<String, OneOrMany<String>>,
    override_path: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    // First, so that a list of strings is not taken for one pair.
    Many(Vec<T>),
    One(T),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

pub(super) fn parse(text: &str, directory: &Path) -> std::result::Result<Vec<Host>, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    let mut sections: Vec<_> = file.host.into_iter().collect();
    sections.sort_by_key(|(name, _)| name.span().start);
    let mut hosts = Vec::new();
    for (name, section) in sections {
        if name.get_ref().is_empty() {
            return Err("a host has no name".into());
        }
        hosts.push(host(name.get_ref(), section, directory)?);
    }
    hosts.push(host(&file.server, file.section, directory)?);
    Ok(hosts)
}

fn host(server: &str, section: Section, directory: &Path) -> std::result::Result<Host, String> {
    let mut host = Host::default();
    if !server.is_empty() {
        place(&mut host, server, section.override_path)?;
    }
    host.pull = section.capabilities.is_empty();
    host.resolve = host.pull;
    for capability in &section.capabilities {
        match capability.to_ascii_lowercase().as_str() {
            "pull" => host.pull = true,
            "resolve" => host.resolve = true,
            "push" => {}
            _ => return Err(format!("unknown capability {capability:?}")),
        }
    }
    host.tls.skip_verify = section.skip_verify;
    host.tls.ca = section
        .ca
        .map(OneOrMany::into_vec)
        .unwrap_or_default()
        .iter()
        .map(|p| directory.join(p))
        .collect();
    for pair in section.client.map(OneOrMany::into_vec).unwrap_or_default() {
        host.tls.client.push(client_pair(pair, directory)?);
    }
    for (name, values) in section.header {
        let name = HeaderName::try_from(&name).map_err(|_| format!("invalid header name {name:?}"))?;
        for value in values.into_vec() {
            let mut value =
                HeaderValue::try_from(value).map_err(|_| format!("invalid value of header {name}"))?;
            value.set_sensitive(true);
            host.headers.append(&name, value);
        }
    }
    Ok(host)
}

fn client_pair(
    pair: OneOrMany<String>,
    directory: &Path,
) -> std::result::Result<(PathBuf, Option<PathBuf>), String> {
    match pair {
        OneOrMany::One(file) => Ok((directory.join(file), None)),
        OneOrMany::Many(files) => match files.as_slice() {
            [certificate, key] if key.is_empty() => Ok((directory.join(certificate), None)),
            [certificate, key] => Ok((directory.join(certificate), Some(directory.join(key)))),
            _ => Err("an entry of `client` is a file, or a pair of files".into()),
        },
    }
}

/// Takes `server` apart. No userinfo, query or fragment: they would be secrets in a file that anybody reads, or
/// mean nothing.
fn place(host: &mut Host, server: &str, override_path: bool) -> std::result::Result<(), String> {
    let (scheme, rest) = server.split_once("://").unwrap_or(("https", server));
    host.https = match scheme.to_ascii_lowercase().as_str() {
        "https" => true,
        "http" => false,
        _ => return Err(format!("{scheme:?} is neither http nor https")),
    };
    if rest.contains(['?', '#', '@', '\\']) {
        return Err("the address of a host is only scheme, host, port and path".into());
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.parse::<http::uri::Authority>().is_err() {
        return Err(format!("{authority:?} is not a host"));
    }
    host.authority = authority.to_ascii_lowercase();
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    if !override_path && parts.last() != Some(&"v2") {
        parts.push("v2");
    }
    host.path = parts.iter().fold(String::new(), |path, part| path + "/" + part);
    if host.path.parse::<http::uri::PathAndQuery>().is_err() && !host.path.is_empty() {
        return Err(format!("{path:?} is not a path"));
    }
    Ok(())
}

/// Docker's layout: `*.crt` are authorities, `*.cert` with `*.key` the client's.
fn certificate_files(directory: &Path) -> Result<Tls> {
    let mut tls = Tls::default();
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if is_absent(&e) => return Ok(tls),
        Err(e) => return Err(unreadable(directory, e)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| unreadable(directory, e))?;
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    for path in paths {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                let key = key.exists().then_some(key);
                tls.client.push((path, key));
            }
            _ => {}
        }
    }
    Ok(tls)
}

/// Reads a small file.
pub(super) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?
        .take(HOSTS_FILE_MAX + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > HOSTS_FILE_MAX {
        return Err(std::io::Error::other(format!(
            "it is larger than {HOSTS_FILE_MAX} bytes"
        )));
    }
    Ok(content)
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
    )
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::caused(ErrorKind::Internal, format!("read {}", path.display()), error)
}
