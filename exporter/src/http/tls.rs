//! The TLS configuration of a client, read once, and what its failures mean.
//!
//! The server's certificate and name are always verified; nothing turns that off. Roots are the
//! system's, or those of `ca_file` alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, InvalidMessage, RootCertStore};

use super::endpoint::Endpoint;
use super::error::{HttpError, HttpErrorKind};

/// Sessions kept for resumption.
const SESSIONS_MAX: usize = 4;

/// Files in PEM.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsOptions {
    /// Roots to trust instead of the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// The client's certificate, the chain behind it; needs `client_key`.
    pub(crate) client_certificate: Option<PathBuf>,
    pub(crate) client_key: Option<PathBuf>,
}

/// What a connection needs to become a TLS connection.
#[derive(Clone)]
pub(super) struct TlsTarget {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

fn wrong(message: String) -> HttpError {
    HttpError::new(HttpErrorKind::Options, message)
}

impl TlsTarget {
    pub(super) fn new(options: &TlsOptions, endpoint: &Endpoint) -> Result<Self, HttpError> {
        let bare = endpoint.host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned());
        let name =
            name.map_err(|_| wrong(format!("{bare:?} is no name a certificate can have")))?;
        Ok(TlsTarget { config: Arc::new(config(options)?), name })
    }
}

fn config(options: &TlsOptions) -> Result<ClientConfig, HttpError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots(options.ca_file.as_deref())?);
    let mut config = match (&options.client_certificate, &options.client_key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate, "the client certificate")?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                wrong(format!(
                    "the client key {} cannot be read: {error}; it must hold a private key in PEM",
                    key.display()
                ))
            })?;
            builder.with_client_auth_cert(chain, secret).map_err(|error| {
                wrong(format!(
                    "the client certificate {} and the client key {} cannot be used: {error}; check \
                     that they belong together",
                    certificate.display(),
                    key.display()
                ))
            })?
        }
        (Some(certificate), None) => {
            let shown = certificate.display();
            return Err(wrong(format!(
                "the client certificate {shown} needs a client key; set both"
            )));
        }
        (None, Some(key)) => {
            let shown = key.display();
            return Err(wrong(format!(
                "the client key {shown} needs a client certificate; set both"
            )));
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(config)
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, HttpError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        for certificate in certificates(path, "the CA file")? {
            roots.add(certificate).map_err(|error| {
                let shown = path.display();
                wrong(format!("the CA file {shown} holds a certificate that is no root: {error}"))
            })?;
        }
        return Ok(roots);
    }
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        let why = system.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(wrong(format!(
            "the system has no root certificates{why}; install them (ca-certificates), or set a CA file"
        )));
    }
    Ok(roots)
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, HttpError> {
    let shown = path.display();
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| {
        wrong(format!("{what} {shown} cannot be read: {error}; check the path"))
    })?;
    if found.is_empty() {
        let advice = "it must hold certificates in PEM (-----BEGIN CERTIFICATE-----)";
        return Err(wrong(format!("{what} {shown} holds no certificate; {advice}")));
    }
    Ok(found)
}

/// What a failure of rustls means, and what to do.
pub(super) fn explain(error: &rustls::Error) -> String {
    use CertificateError as Certificate;
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            Certificate::Expired | Certificate::ExpiredContext { .. } => {
                format!("the server's certificate has expired ({error}); renew it, check the clock")
            }
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                format!("the server's certificate is not valid yet ({error}); check the clock")
            }
            Certificate::UnknownIssuer => {
                "the server's certificate is signed by an unknown CA; add \
                                           the CA to the system's, or set a CA file"
                    .to_owned()
            }
            Certificate::BadSignature => {
                "the signature of the server's certificate does not fit the \
                                          CA of that name; is the CA file an old one?"
                    .to_owned()
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => format!(
                "the server's certificate is for another host ({error}); check the endpoint's host"
            ),
            Certificate::Revoked => "the server's certificate is revoked; renew it".to_owned(),
            _ => format!("the server's certificate is not accepted: {error}"),
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server does not speak TLS on this port; should the endpoint begin with http://?"
                .to_owned()
        }
        rustls::Error::AlertReceived(alert) => format!(
            "the server ended the TLS connection ({alert:?}); it may want a client certificate, \
             another one, or another version of TLS"
        ),
        _ => format!("TLS failed: {error}"),
    }
}
