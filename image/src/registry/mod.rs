//! The registry client: OCI distribution specification v1.1, pull only.

mod auth;
mod blob;
mod connect;
mod endpoint;
mod hosts;
mod redirect;
mod request;
#[cfg(test)]
mod tests;
mod tls;
mod token;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use tokio::sync::OnceCell;

pub use self::blob::BlobStream;
use self::connect::{Client, Proxies};
use self::endpoint::{Endpoint, Query, attempts};
use self::hosts::Host;
use self::tls::Trust;
use crate::digest::Digest;
use crate::limits::{DOCUMENT_SIZE_MAX, INDEX_DEPTH_MAX};
use crate::manifest::{Descriptor, Document, ImageConfigFile, Manifest, media_type};
use crate::platform;
use crate::reference::Reference;
use crate::{Credentials, Error, ErrorKind, Result};

/// Reads a hosts.toml and forgets it, for the fuzzers.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_hosts(text: &str) {
    drop(hosts::parse(
        text,
        std::path::Path::new("/etc/certs.d/example.test"),
    ));
}

/// All registries: connections and TLS roots, shared by the pulls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hosts_dir: PathBuf,
    stall: Duration,
    proxies: Proxies,
    /// Made for the first pull: parsing the machine's authorities takes a while and some memory.
    common: OnceCell<Common>,
}

#[derive(Debug, Clone)]
struct Common {
    trust: Trust,
    /// For hosts without TLS settings of their own.
    client: Client,
}

impl Registry {
    /// `hosts_dir` is read at every pull. `stall_timeout`: no byte of a blob for this long ends a try.
    ///
    /// # Errors
    /// `Invalid` for a timeout of zero.
    pub fn new(hosts_dir: PathBuf, stall_timeout: Duration) -> Result<Self> {
        if stall_timeout.is_zero() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the stall timeout of pulls is zero",
            ));
        }
        let (proxies, common) = (Proxies::from_env(), OnceCell::new());
        Ok(Self {
            shared: Arc::new(Shared {
                hosts_dir,
                stall: stall_timeout,
                proxies,
                common,
            }),
        })
    }

    /// Fetches manifest and configuration of `reference` for this machine. No deadline: the caller's ends it.
    ///
    /// # Errors
    /// `Denied`, `NotFound`, `Unavailable`, `Corrupt` or `Invalid`. No text holds a secret.
    pub async fn resolve(&self, reference: &Reference, credentials: Option<&Credentials>) -> Result<Remote> {
        let source = Arc::new(self.source(reference, credentials).await?);
        Box::pin(source.resolve(reference))
            .await
            .map_err(|e| Error::new(e.kind(), format!("resolve {reference}: {e}")))
    }

    async fn source(&self, reference: &Reference, credentials: Option<&Credentials>) -> Result<Source> {
        let shared = Arc::clone(&self.shared);
        let registry = reference.registry().to_owned();
        let common = shared.common.get_or_try_init(|| {
            blocking({
                let proxies = shared.proxies.clone();
                move || {
                    let trust = Trust::load();
                    let client = connect::client(trust.config(&hosts::Tls::default())?, &proxies);
                    Ok(Common { trust, client })
                }
            })
        });
        let common = common.await?.clone();
        let proxies = shared.proxies.clone();
        let found = blocking(move || {
            let hosts = hosts::load(&shared.hosts_dir, &registry)?;
            hosts
                .into_iter()
                .map(|host| with_clients(host, &common, &shared.proxies))
                .collect::<Result<Vec<_>>>()
        });
        let name = (reference.registry(), reference.repository());
        let endpoint =
            |(host, clients)| Arc::new(Endpoint::new(host, name, clients, proxies.clone(), credentials));
        let endpoints = found.await?.into_iter().map(endpoint).collect();
        Ok(Source {
            endpoints,
            stall: self.shared.stall,
        })
    }
}

/// The client of a host, and that of the hosts it sends us to.
fn with_clients(host: Host, common: &Common, proxies: &Proxies) -> Result<(Host, (Client, Client))> {
    if host.tls.is_default() {
        return Ok((host, (common.client.clone(), common.client.clone())));
    }
    let own = connect::client(common.trust.config(&host.tls)?, proxies);
    let foreign = if host.tls.implicit {
        common.client.clone()
    } else {
        own.clone()
    };
    Ok((host, (own, foreign)))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::caused(
            ErrorKind::Internal,
            "read the registry configuration",
            e,
        )),
    }
}

/// An image in a registry, as one pull sees it; tokens live and die with it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Remote {
    /// What was asked for.
    pub reference: Reference,
    /// Of the index or manifest that the reference denotes: what goes into `repo_digests`.
    pub digest: Digest,
    /// The manifest for this machine.
    pub manifest: Manifest,
    /// Its digest: `digest`, unless that is of an index.
    pub manifest_digest: Digest,
    /// Its text.
    pub manifest_bytes: Bytes,
    /// The configuration, with as many `diff_ids` as the manifest has layers.
    pub config: ImageConfigFile,
    /// Its text; verified.
    pub config_bytes: Bytes,
    source: Arc<Source>,
}

impl Remote {
    /// Streams a blob from byte `offset` on. The stream resumes by itself when a connection breaks, and ends with
    /// an error when there are not exactly `descriptor.size` bytes. The digest is the caller's to verify.
    ///
    /// # Errors
    /// As [`Registry::resolve`].
    pub async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobStream> {
        Box::pin(BlobStream::open(Arc::clone(&self.source), descriptor, offset)).await
    }
}

/// The hosts of one pull.
#[derive(Debug)]
struct Source {
    endpoints: Vec<Arc<Endpoint>>,
    stall: Duration,
}

/// What a host must be trusted with.
#[derive(Debug, Clone, Copy)]
enum Need {
    /// Content whose digest is known.
    Pull,
    /// What a tag means.
    Resolve,
}

/// A document that a host sent.
struct Fetched {
    bytes: Bytes,
    digest: Digest,
    document: Document,
}

impl Source {
    /// The hosts to ask, in order; those that could not be reached only if there is no other.
    fn candidates(&self, need: Need) -> Result<Vec<Arc<Endpoint>>> {
        let able = |e: &&Arc<Endpoint>| match need {
            Need::Pull => e.host.pull,
            Need::Resolve => e.host.resolve,
        };
        let able: Vec<_> = self.endpoints.iter().filter(able).cloned().collect();
        let alive: Vec<_> = able.iter().filter(|e| !e.is_dead()).cloned().collect();
        if able.is_empty() {
            let what = match need {
                Need::Pull => "pull",
                Need::Resolve => "resolve",
            };
            let text = format!("hosts.toml names no host with the capability {what:?}");
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        Ok(if alive.is_empty() { able } else { alive })
    }

    async fn resolve(self: Arc<Self>, reference: &Reference) -> Result<Remote> {
        let mut fetched = self
            .document(reference.manifest_name(), reference.digest(), None)
            .await?;
        let digest = fetched.digest.clone();
        for _ in 0..INDEX_DEPTH_MAX {
            let manifest = match fetched.document {
                Document::Manifest(manifest) => manifest,
                Document::Index(index) => {
                    let chosen = platform::choose(&index)?;
                    fetched = self
                        .document(chosen.digest.as_str(), Some(&chosen.digest), Some(chosen))
                        .await?;
                    continue;
                }
            };
            manifest.check_is_image()?;
            let (config, config_bytes) = self.configuration(&manifest).await?;
            return Ok(Remote {
                reference: reference.clone(),
                digest,
                manifest,
                manifest_digest: fetched.digest,
                manifest_bytes: fetched.bytes,
                config,
                config_bytes,
                source: self,
            });
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!("there are more than {INDEX_DEPTH_MAX} indexes in one another"),
        ))
    }

    /// Fetches and checks the manifest or index `name`. A host that sends a wrong one is as good as none.
    async fn document(
        &self,
        name: &str,
        digest: Option<&Digest>,
        descriptor: Option<&Descriptor>,
    ) -> Result<Fetched> {
        if let Some(size) = descriptor
            .map(|d| d.size)
            .filter(|size| *size > DOCUMENT_SIZE_MAX)
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("manifest {name} has {size} bytes, which is too much"),
            ));
        }
        let path = format!("manifests/{name}");
        let query = Query {
            path: &path,
            accept: Some(media_type::ACCEPT),
            offset: 0,
        };
        let candidates = self.candidates(if digest.is_some() {
            Need::Pull
        } else {
            Need::Resolve
        })?;
        let mut errors = Vec::new();
        for (at, endpoint) in candidates.iter().enumerate() {
            match fetch_document(
                endpoint,
                &query,
                attempts(at + 1 == candidates.len()),
                digest,
                descriptor,
            )
            .await
            {
                Ok(fetched) => return Ok(fetched),
                Err(error) => errors.push(error),
            }
        }
        Err(all_failed(errors))
    }

    async fn configuration(self: &Arc<Self>, manifest: &Manifest) -> Result<(ImageConfigFile, Bytes)> {
        let descriptor = &manifest.config;
        if descriptor.size > DOCUMENT_SIZE_MAX {
            let text = format!(
                "the image configuration has {} bytes, which is too much",
                descriptor.size
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let bytes = Box::pin(BlobStream::open(Arc::clone(self), descriptor, 0))
            .await?
            .collect()
            .await?;
        descriptor.digest.verify(&bytes, "the image configuration")?;
        let config = ImageConfigFile::parse(&bytes)?;
        config.check_layers(manifest)?;
        Ok((config, bytes))
    }
}

async fn fetch_document(
    endpoint: &Endpoint,
    query: &Query<'_>,
    attempts: u32,
    digest: Option<&Digest>,
    descriptor: Option<&Descriptor>,
) -> Result<Fetched> {
    let (headers, bytes) = endpoint.document(query, attempts, DOCUMENT_SIZE_MAX).await?;
    let what = endpoint.doing(query);
    let header = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let content_type = header(CONTENT_TYPE.as_str());
    let claimed: Option<Digest> = header("docker-content-digest").and_then(|text| text.parse().ok());
    if let Some(digest) = digest.or(claimed.as_ref()) {
        digest.verify(&bytes, &what)?;
    }
    if let Some(size) = descriptor
        .map(|d| d.size)
        .filter(|size| *size != bytes.len() as u64)
    {
        let text = format!("{what} has {} bytes instead of {size}", bytes.len());
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    if let Some(descriptor) = descriptor {
        Document::parse(&bytes, Some(&descriptor.media_type)).map_err(|e| at(&what, &e))?;
    }
    let document = Document::parse(&bytes, content_type).map_err(|e| at(&what, &e))?;
    let digest = digest.cloned().unwrap_or_else(|| Digest::of(&bytes));
    Ok(Fetched {
        bytes,
        digest,
        document,
    })
}

fn at(what: &str, error: &Error) -> Error {
    Error::new(error.kind(), format!("{what}: {error}"))
}

/// The last host is the registry itself, so its error says what is wrong; the others' are told, too.
fn all_failed(mut errors: Vec<Error>) -> Error {
    let Some(last) = errors.pop() else {
        return Error::new(ErrorKind::Internal, "there was no host to ask");
    };
    if errors.is_empty() {
        return last;
    }
    let others: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Error::new(last.kind(), format!("{last}; before that, {}", others.join("; ")))
}
