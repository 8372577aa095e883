//! The server's certificate, read again when its files change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// What tells one version of the two files from another.
type Stamp = [(SystemTime, u64); 2];

/// A certificate chain and key on disk, and what was last read from there.
#[derive(Debug)]
pub(crate) struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    loaded: Mutex<(Stamp, Arc<ServerConfig>)>,
}

impl Certificate {
    /// Reads both files; an unreadable one fails the start of the server.
    pub(crate) fn load(chain: PathBuf, key: PathBuf) -> io::Result<Self> {
        let stamp = stamp(&chain, &key)?;
        let config = Arc::new(read(&chain, &key)?);
        Ok(Self {
            chain,
            key,
            loaded: Mutex::new((stamp, config)),
        })
    }

    /// The acceptor for the next connection. A renewed certificate is taken up here; while its files are half
    /// written or broken, the old one stays in use.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        match stamp(&self.chain, &self.key) {
            Ok(now) if now == loaded.0 => {}
            Ok(now) => match read(&self.chain, &self.key) {
                Ok(config) => *loaded = (now, Arc::new(config)),
                Err(error) => tracing::warn!(%error, "keep the old streaming certificate"),
            },
            Err(error) => tracing::warn!(%error, "keep the old streaming certificate"),
        }
        TlsAcceptor::from(Arc::clone(&loaded.1))
    }
}

fn stamp(chain: &Path, key: &Path) -> io::Result<Stamp> {
    let one = |path: &Path| {
        let meta = std::fs::metadata(path).map_err(|error| at("look at", path, &error))?;
        Ok::<_, io::Error>((meta.modified()?, meta.len()))
    };
    Ok([one(chain)?, one(key)?])
}

fn read(chain_path: &Path, key_path: &Path) -> io::Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(chain_path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| at("read certificates", chain_path, &error))?;
    let key =
        PrivateKeyDer::from_pem_file(key_path).map_err(|error| at("read private key", key_path, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| at("use certificate", chain_path, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn at(what: &str, path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what} {}: {error}", path.display()),
    )
}
