//! Who we say that we are: whether credentials may go to a host, challenges, and what answers them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use http_auth::ChallengeRef;
use tokio::sync::Mutex;

use super::hosts::is_loopback;
use crate::reference::split_port;
use crate::{Credentials, Result};

/// Whether `credentials` were meant for the host that is reached as `https` or not at `authority`. Those that name
/// no server are for the registry of the image name, never for a mirror of it (CVE-2020-15157).
pub(super) fn belong(credentials: &Credentials, registry: &str, https: bool, authority: &str) -> bool {
    let server = credentials.server_address.trim();
    let (scheme, rest) = match server.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, server),
    };
    let rest = rest.split('/').next().unwrap_or_default();
    let home = if rest.is_empty() { registry } else { rest };
    if scheme.is_some_and(|s| s.eq_ignore_ascii_case("https")) && !https {
        return false;
    }
    canonical(home, https) == canonical(authority, https)
}

/// One name for each place: docker.io has several, and default ports need not be said.
fn canonical(authority: &str, https: bool) -> String {
    let authority = authority.to_ascii_lowercase();
    let (host, port) = split_port(&authority);
    let port = port.unwrap_or(if https { "443" } else { "80" });
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    format!("{host}:{port}")
}

/// What a registry asks for in a 401.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// The challenge to answer: Bearer, if there is one that can be, else Basic.
    pub(super) fn find(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = value.to_str() else { continue };
            for challenge in http_auth::parse_challenges(text).unwrap_or_default() {
                if challenge.scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = parameter(&challenge, "realm")
                {
                    return Some(Self::Bearer {
                        realm,
                        service: parameter(&challenge, "service"),
                        scope: parameter(&challenge, "scope"),
                    });
                } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
}

fn parameter(challenge: &ChallengeRef<'_>, name: &str) -> Option<String> {
    let (_, value) = challenge
        .params
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    Some(value.to_unescaped()).filter(|v| !v.is_empty())
}

/// Only what a pull needs of the scope that a registry asks us to get: it need not receive a token for more.
pub(super) fn pull_scope(asked: Option<&str>, repository: &str) -> String {
    let asked = asked.unwrap_or_default().split_ascii_whitespace();
    let scopes: Vec<String> = asked
        .filter_map(|scope| {
            let name = scope.strip_prefix("repository:")?.rsplit_once(':')?.0;
            (!name.is_empty()).then(|| format!("repository:{name}:pull"))
        })
        .collect();
    if scopes.is_empty() {
        format!("repository:{repository}:pull")
    } else {
        scopes.join(" ")
    }
}

/// Whether secrets or tokens may come from a token server at `realm`: over TLS, or, for a registry without it,
/// also without, but then on the same machine as the registry (CVE-2019-10214).
pub(super) fn realm_allowed(realm: &http::Uri, https: bool, authority: &str) -> bool {
    let Some(place) = realm.authority().map(|a| a.as_str()) else {
        return false;
    };
    if place.contains('@') {
        return false;
    }
    match realm.scheme_str() {
        Some("https") => true,
        Some("http") if !https => {
            let same = split_port(place).0.eq_ignore_ascii_case(split_port(authority).0);
            same || (is_loopback(place) && is_loopback(authority))
        }
        _ => false,
    }
}

/// `Basic …`; none without a user name.
pub(super) fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    if credentials.username.is_empty() && credentials.password.is_empty() {
        return None;
    }
    let pair = format!("{}:{}", credentials.username, credentials.password);
    sensitive(&format!("Basic {}", STANDARD.encode(pair)))
}

/// `Bearer …`.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The `Authorization` that one host currently takes from one pull, and how often it has changed.
#[derive(Debug, Default)]
pub(super) struct Session {
    current: Mutex<Authorization>,
}

/// A version of the header.
#[derive(Debug, Clone, Default)]
pub(super) struct Authorization {
    pub(super) header: Option<HeaderValue>,
    pub(super) version: u32,
}

impl Session {
    /// One that starts with `header`.
    pub(super) fn new(header: Option<HeaderValue>) -> Self {
        Self {
            current: Mutex::new(Authorization { header, version: 0 }),
        }
    }

    /// What to send now.
    pub(super) async fn current(&self) -> Authorization {
        self.current.lock().await.clone()
    }

    /// Replaces the header that was refused as version `refused`. Of several requests that were refused at once,
    /// one asks and the others wait for what it gets.
    pub(super) async fn renew(
        &self,
        refused: u32,
        ask: impl Future<Output = Result<HeaderValue>>,
    ) -> Result<Authorization> {
        let mut current = self.current.lock().await;
        if current.version == refused {
            current.header = Some(ask.await?);
            current.version += 1;
        }
        Ok(current.clone())
    }
}
