//! V11: what the way out costs. A request through egress is one to the vault for a lease, one to dialer, one to the vault for the
//! credential and two records, each written before it goes on, and a connection of its own; the control speaks TLS to the same
//! server itself, on a new connection each. The goals of V11 speak of connections that are kept, and those are not (ADR 38): the
//! rows are shown for what they are. The log lies in memory, so that no disk is measured.

use super::{Bound, Row, alternate, p50_us};
use crate::servers::{Authority, Server, name_server, respond};
use crate::way_out::{Setup, World, post};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

const HOST: &str = "model.test";
const CALLS: usize = 100;

/// The same request without anybody between, until its answer is whole.
fn direct(config: &Arc<ClientConfig>, port: u16, size: usize) {
    let name = ServerName::try_from(HOST).unwrap();
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), stream);
    let head = format!(
        "POST /v1/messages?x=1 HTTP/1.1\r\nhost: {HOST}\r\nx-api-key: sk-0123456789\r\ncontent-length: 2\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), b"{}"].concat()).unwrap();
    let mut answer = Vec::new();
    // The server says that it is over; what it does with the connection after that is no matter.
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.len() > size, "{}", answer.len());
}

/// Answers of 500 bytes and of 20 KB.
pub fn v11(_full: bool) -> Vec<Row> {
    let authority = Authority::new();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.path()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    let goals = [(500, "goal with kept connections: 20 us more"), (20_000, "goal with kept connections: ratio 1.6")];
    let row = |(size, published): (usize, &'static str)| {
        let server = Server::tls(authority.server(HOST), move |_, out| respond(out, "200 OK", "", &vec![b'a'; size]));
        let world = World::new(&Setup {
            local: vec![format!("{HOST}:{}", server.port)],
            resolver: Some(name_server(|_, _| vec![Ipv4Addr::LOCALHOST])),
            ca: authority.path(),
            dirs: "/dev/shm".into(),
            ..Setup::default()
        });
        let policy = format!(
            "verb inject\nrole egress\nheader x-api-key\nhost {HOST}\nport {}\nmethod POST\npath /v1\n",
            server.port
        );
        world.secret("model", b"sk-0123456789", &policy);
        let request = post(HOST, server.port, b"{}");
        let through = || {
            p50_us(CALLS, || assert_eq!(world.ask(&request).body.len(), size));
        };
        through();
        let (measured, control) = alternate(
            5,
            || p50_us(CALLS, || assert_eq!(world.ask(&request).body.len(), size)),
            || p50_us(CALLS, || direct(&config, server.port, size)),
        );
        Row {
            goal: "V11",
            what: format!(
                "a request with a credential and an answer of {size} bytes, its name resolved, through egress / TLS to the same server"
            ),
            measured,
            control,
            unit: "us",
            bound: Bound::Shown,
            published,
        }
    };
    goals.into_iter().map(row).collect()
}
