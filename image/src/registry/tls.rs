//! TLS settings for rustls: the machine's authorities, and what hosts.toml adds.

use std::path::Path;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::hosts::{Tls, read};
use crate::{Error, ErrorKind, Result};

/// The machine's certificate authorities, and how we do cryptography.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    /// Reads the machine's store; files of it that cannot be read are logged and left out. Blocks.
    pub(super) fn load() -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "cannot read some of this machine's certificate authorities");
        }
        let mut roots = RootCertStore::empty();
        let (_, ignored) = roots.add_parsable_certificates(found.certs);
        if ignored > 0 {
            tracing::debug!(ignored, "certificate authorities that cannot be parsed");
        }
        Self {
            roots: Arc::new(roots),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
        }
    }

    /// What to connect with. Blocks: it reads the files that `tls` names.
    ///
    /// # Errors
    /// `Internal` when one cannot be read, `Invalid` when it does not hold what it should.
    pub(super) fn config(&self, tls: &Tls) -> Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::caused(ErrorKind::Internal, "set up TLS", e))?;
        let builder = if tls.skip_verify == Some(true) {
            let algorithms = self.provider.signature_verification_algorithms;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(TakeAny(algorithms)))
        } else if tls.ca.is_empty() {
            builder.with_root_certificates(Arc::clone(&self.roots))
        } else {
            let mut roots = RootCertStore::clone(&self.roots);
            for path in &tls.ca {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|e| unusable(path, e))?;
                }
            }
            builder.with_root_certificates(roots)
        };
        if tls.client.is_empty() {
            return Ok(builder.with_no_client_auth());
        }
        let mut keys = Vec::new();
        for (certificate, key) in &tls.client {
            let chain = certificates(certificate)?;
            let key_file = key.as_ref().unwrap_or(certificate);
            let text = read(key_file).map_err(|e| unreadable(key_file, e))?;
            let key = PrivateKeyDer::from_pem_slice(&text).map_err(|e| unusable(key_file, e))?;
            let pair =
                CertifiedKey::from_der(chain, key, &self.provider).map_err(|e| unusable(certificate, e))?;
            keys.push(Arc::new(pair));
        }
        Ok(builder.with_client_cert_resolver(Arc::new(ClientKeys(keys))))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(path).map_err(|e| unreadable(path, e))?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|e| unusable(path, e))?;
    if found.is_empty() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{} holds no certificate", path.display()),
        ));
    }
    Ok(found)
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::caused(ErrorKind::Internal, format!("read {}", path.display()), error)
}

fn unusable(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::caused(ErrorKind::Invalid, format!("use {}", path.display()), error)
}

/// Offers the first key that the server can check.
#[derive(Debug)]
struct ClientKeys(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for ClientKeys {
    fn resolve(&self, _issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0
            .iter()
            .find(|pair| pair.key.choose_scheme(schemes).is_some())
            .cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// `skip_verify`: any certificate will do; the handshake itself must still be sound.
#[derive(Debug)]
struct TakeAny(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
