//! TLS over a descriptor that dialer connected. dialer is not trusted: which host is at the other end is proved by its
//! certificate, for the name that the vault's policy has, and where the descriptor leads is asked of the kernel.

use crate::allowlist::is_internal;
use proto::edge::Refusal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What every connection is opened with: the web's roots, and the operator's where there are some.
///
/// # Errors
/// Where the operator's certificates are none.
pub fn config(operators: Option<&[u8]>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let before = roots.len();
    for certificate in operators.into_iter().flat_map(CertificateDer::pem_slice_iter) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if operators.is_some() && roots.len() == before {
        return Err("there is no certificate in it".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // No secret of a connection outlives it.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Takes what dialer connected, if the kernel says that it leads where it may.
///
/// # Errors
/// [`Refusal`].
pub fn connection(fd: OwnedFd, local: bool) -> Result<(TcpStream, SocketAddr), Refusal> {
    let failed = |error: io::Error| Refusal::new("egress.connection", &format!("what dialer connected: {error}"));
    let stream = std::net::TcpStream::from(fd);
    let address = stream.peer_addr().map_err(failed)?;
    if if local { !address.ip().is_loopback() } else { is_internal(address.ip()) } {
        let why = format!("dialer connected {address}, which is not where this request may go");
        return Err(Refusal::new("egress.address", &why));
    }
    stream.set_nonblocking(true).map_err(failed)?;
    Ok((TcpStream::from_std(stream).map_err(failed)?, address))
}

/// Has the other end prove that it is `host`.
///
/// # Errors
/// [`Refusal`]; nothing but a greeting with the name was sent then.
pub async fn prove(config: &Arc<ClientConfig>, stream: TcpStream, host: &str) -> Result<TlsStream<TcpStream>, Refusal> {
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<Ipv6Addr>();
    let name = match literal {
        Ok(address) => ServerName::from(std::net::IpAddr::V6(address)),
        Err(_) => ServerName::try_from(host.to_owned())
            .map_err(|_| Refusal::new("egress.host", &format!("{host} is no name of a server")))?,
    };
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(|error| {
        let why = format!("{host} did not prove that it is {host}: {error}; no credential was sent");
        Refusal::new("egress.tls", &why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_certificates_are_taken_and_what_is_none_is_refused() {
        assert!(config(None).is_ok());
        assert!(config(Some(b"")).is_err());
        assert!(config(Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")).is_err());
    }

    #[tokio::test]
    async fn connection_to_this_machine_is_for_local_services_alone() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || OwnedFd::from(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        assert_eq!(connection(connect(), true).unwrap().1, listener.local_addr().unwrap());
        assert_eq!(connection(connect(), false).unwrap_err().rule.as_str(), "egress.address");
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert_eq!(connection(file, true).unwrap_err().rule.as_str(), "egress.connection");
    }
}
