//! One host that serves a repository, as one pull uses it.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION, PROXY_AUTHORIZATION, RANGE};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::OnceCell;

use super::auth::{self, Challenge, Session};
use super::connect::{Client, Proxies};
use super::hosts::Host;
use super::redirect;
use super::request::{self, Failure};
use super::token;
use crate::limits::{ATTEMPTS_MAX, PROBE_TIMEOUT, REDIRECTS_MAX};
use crate::{Credentials, Error, ErrorKind, Result};

/// What a host is asked for: `/<repository>/<path>`.
#[derive(Debug, Default)]
pub(super) struct Query<'a> {
    /// `manifests/latest`, `blobs/sha256:…`.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'static str>,
    /// Bytes to leave out.
    pub(super) offset: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) host: Host,
    /// Of the image name, not of the mirror.
    registry: String,
    repository: String,
    client: Client,
    /// For other hosts that this one sends us to.
    foreign: Client,
    proxies: Proxies,
    /// As the pull brought them; whether they may be used here is asked when the scheme is certain.
    credentials: Option<Credentials>,
    settled: OnceCell<Settled>,
    /// Could not be reached: not asked again while there are others.
    dead: AtomicBool,
}

/// What is known once the scheme is.
#[derive(Debug)]
struct Settled {
    https: bool,
    credentials: Option<Credentials>,
    session: Session,
}

impl Endpoint {
    pub(super) fn new(
        host: Host,
        name: (&str, &str),
        clients: (Client, Client),
        proxies: Proxies,
        credentials: Option<&Credentials>,
    ) -> Self {
        let (client, foreign) = clients;
        Self {
            host,
            registry: name.0.to_owned(),
            repository: name.1.to_owned(),
            client,
            foreign,
            proxies,
            credentials: credentials.cloned(),
            settled: OnceCell::new(),
            dead: AtomicBool::new(false),
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// GETs, with redirects, challenges and tries. The answer's status is a success.
    ///
    /// # Errors
    /// `Denied`, `NotFound`, `Unavailable`; the text names host and path.
    pub(super) async fn get(&self, query: &Query<'_>, attempts: u32) -> Result<Response<Incoming>> {
        let mut attempt = 1;
        loop {
            let failure = match Box::pin(self.exchange(query)).await {
                Ok(response) => return Ok(response),
                Err(Problem::Final(error)) => return Err(error),
                Err(Problem::Exchange(failure)) => failure,
            };
            let Some(wait) = failure.wait_before(attempt, attempts) else {
                self.dead.fetch_or(failure.unreachable, Ordering::Relaxed);
                return Err(failure.into_error(&self.doing(query)));
            };
            tracing::debug!(host = %self.host.authority, ?failure, ?wait, "registry request is tried again");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    /// [`Self::get`] and the whole body, at most `max` bytes.
    ///
    /// # Errors
    /// As [`Self::get`]; `Invalid` when it is longer.
    pub(super) async fn document(
        &self,
        query: &Query<'_>,
        attempts: u32,
        max: u64,
    ) -> Result<(http::HeaderMap, Bytes)> {
        let mut attempt = 1;
        loop {
            let mut response = self.get(query, attempts).await?;
            let headers = std::mem::take(response.headers_mut());
            let failure = match request::read(response, max).await {
                Ok(bytes) => return Ok((headers, bytes)),
                Err(failure) => failure,
            };
            match failure.wait_before(attempt, attempts) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(failure.into_error(&self.doing(query))),
            }
            attempt += 1;
        }
    }

    /// For error texts.
    pub(super) fn doing(&self, query: &Query<'_>) -> String {
        let Host { authority, path, .. } = &self.host;
        format!("fetch {authority}{path}/{}/{}", self.repository, query.path)
    }

    /// One try: a request and, if it is challenged, one more.
    async fn exchange(&self, query: &Query<'_>) -> std::result::Result<Response<Incoming>, Problem> {
        let settled = self.settled.get_or_init(|| self.settle()).await;
        let mut authorization = settled.session.current().await;
        let mut response = self
            .follow(query, settled.https, authorization.header.as_ref())
            .await?;
        if response.status() == StatusCode::UNAUTHORIZED && response.is_home {
            let answer = self.answer(settled, response.headers());
            authorization = settled
                .session
                .renew(authorization.version, answer)
                .await
                .map_err(Problem::Final)?;
            drop(response);
            response = self
                .follow(query, settled.https, authorization.header.as_ref())
                .await?;
        }
        if response.status().is_success() {
            return Ok(response.inner);
        }
        Err(Problem::Exchange(Failure::status(response.inner).await))
    }

    async fn settle(&self) -> Settled {
        let https = self.host.https || (self.host.https_first && self.speaks_tls().await);
        let credentials = self
            .credentials
            .as_ref()
            .filter(|c| auth::belong(c, &self.registry, https, &self.host.authority))
            .cloned();
        let given = credentials
            .as_ref()
            .map(|c| c.registry_token.as_str())
            .filter(|t| !t.is_empty());
        let session = Session::new(given.and_then(auth::bearer));
        Settled {
            https,
            credentials,
            session,
        }
    }

    /// Asks without credentials.
    async fn speaks_tls(&self) -> bool {
        let uri = format!("https://{}{}/", self.host.authority, self.host.path);
        let Ok(request) = Request::get(uri).body(Full::default()) else {
            return false;
        };
        let asked = tokio::time::timeout(PROBE_TIMEOUT, self.client.request(request)).await;
        matches!(asked, Ok(Ok(_)))
    }

    /// What to authenticate with, after `headers` came with a 401.
    async fn answer(&self, settled: &Settled, headers: &http::HeaderMap) -> Result<HeaderValue> {
        let credentials = settled.credentials.as_ref();
        let place = self.host.authority.as_str();
        let denied = |text: String| Error::new(ErrorKind::Denied, text);
        if credentials.is_some_and(|c| !c.registry_token.is_empty()) {
            return Err(denied(format!("{place} refused the registry token")));
        }
        match Challenge::find(headers) {
            None => Err(denied(format!(
                "{place} refused the request and offers no way to authenticate"
            ))),
            Some(Challenge::Basic) => credentials
                .and_then(auth::basic)
                .ok_or_else(|| denied(format!("{place} wants a user name and a password"))),
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                let realm: Uri = realm
                    .parse()
                    .map_err(|_| denied(format!("{place} names no valid token server")))?;
                if !auth::realm_allowed(&realm, settled.https, place) {
                    let realm = request::place(&realm);
                    return Err(denied(format!(
                        "{place} sends us to a token server that is not safe: {realm}"
                    )));
                }
                let scope = auth::pull_scope(scope.as_deref(), &self.repository);
                let service = service.as_deref();
                let question = token::Question {
                    realm: &realm,
                    service,
                    scope: &scope,
                    credentials,
                };
                let client = if self.is_home(&realm, settled.https) {
                    &self.client
                } else {
                    &self.foreign
                };
                token::fetch(client, &question).await
            }
        }
    }

    /// One request and the redirects after it. What is ours to show stays here (CVE-2020-15157).
    async fn follow(
        &self,
        query: &Query<'_>,
        https: bool,
        authorization: Option<&HeaderValue>,
    ) -> std::result::Result<Answered, Failure> {
        let mut uri = self.uri(query, https).map_err(Failure::invalid)?;
        for _ in 0..=REDIRECTS_MAX {
            let is_home = self.is_home(&uri, https);
            let request = self
                .request(&uri, query, is_home, authorization)
                .map_err(Failure::invalid)?;
            let client = if is_home { &self.client } else { &self.foreign };
            let inner = request::send(client, request).await?;
            let redirects = matches!(inner.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = inner.headers().get(LOCATION).filter(|_| redirects) else {
                return Ok(Answered { inner, is_home });
            };
            uri = redirect::target(&uri, location).map_err(|e| Failure::new(ErrorKind::Unavailable, e))?;
        }
        Err(Failure::new(
            ErrorKind::Unavailable,
            format!("more than {REDIRECTS_MAX} redirects"),
        ))
    }

    fn request(
        &self,
        uri: &Uri,
        query: &Query<'_>,
        is_home: bool,
        authorization: Option<&HeaderValue>,
    ) -> std::result::Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::get(uri.clone()).body(Full::default())?;
        let headers = request.headers_mut();
        if is_home {
            headers.extend(self.host.headers.clone());
        }
        if let Some(authorization) = authorization.filter(|_| is_home) {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if let Some(accept) = query.accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if query.offset > 0 {
            headers.insert(RANGE, HeaderValue::try_from(format!("bytes={}-", query.offset))?);
        }
        if let Some(proxy) = self.proxies.authorization(uri) {
            headers.insert(PROXY_AUTHORIZATION, proxy);
        }
        Ok(request)
    }

    fn uri(&self, query: &Query<'_>, https: bool) -> std::result::Result<Uri, http::uri::InvalidUri> {
        let scheme = if https { "https" } else { "http" };
        let Host { authority, path, .. } = &self.host;
        let mut text = format!("{scheme}://{authority}{path}/{}/{}", self.repository, query.path);
        // Tells a mirror of several registries which one is meant.
        if *authority != self.registry && (self.registry.as_str(), authority.as_str()) != DOCKER {
            text.push_str("?ns=");
            request::percent_encode(&self.registry, &mut text);
        }
        text.parse()
    }

    fn is_home(&self, uri: &Uri, https: bool) -> bool {
        let scheme = if https { "https" } else { "http" };
        uri.scheme_str() == Some(scheme)
            && uri
                .authority()
                .is_some_and(|a| a.as_str().eq_ignore_ascii_case(&self.host.authority))
    }
}

/// A name and its host that are one place.
const DOCKER: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// An answer, and whether the host itself gave it.
struct Answered {
    inner: Response<Incoming>,
    is_home: bool,
}

impl std::ops::Deref for Answered {
    type Target = Response<Incoming>;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

enum Problem {
    /// Says all by itself.
    Final(Error),
    /// May be tried again.
    Exchange(Failure),
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::Exchange(failure)
    }
}

/// How often to ask the last host that can answer, and those before it.
pub(super) fn attempts(is_last: bool) -> u32 {
    if is_last { ATTEMPTS_MAX } else { 1 }
}
