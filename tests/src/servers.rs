//! The other side of the wire: servers over TLS and without, with certificates of a CA that the test makes, and a name server.

use crate::play_broker::reserve;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

fn openssl(dir: &Path, args: &[&str]) {
    let output = Command::new("openssl").args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A certificate authority of the test's own.
pub struct Authority {
    dir: TempDir,
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// Where openssl is not there.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it runs a program and makes files")]
    pub fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        reserve();
        let dir = tempfile::Builder::new().prefix("moltbot-ca.").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=ca -keyout ca.key -out ca.pem";
        openssl(dir.path(), &make.split(' ').collect::<Vec<_>>());
        std::fs::set_permissions(dir.path().join("ca.pem"), PermissionsExt::from_mode(0o644)).unwrap();
        Self { dir }
    }

    /// Its certificate.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// What a server for this name runs with.
    ///
    /// # Panics
    /// Where openssl fails.
    #[must_use]
    pub fn server(&self, name: &str) -> Arc<ServerConfig> {
        let at = self.dir.path();
        std::fs::write(at.join(format!("{name}.ext")), format!("subjectAltName=DNS:{name}\n")).unwrap();
        let request = format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        );
        openssl(at, &request.split(' ').collect::<Vec<_>>());
        let sign = format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile {name}.ext -out {name}.crt"
        );
        openssl(at, &sign.split(' ').collect::<Vec<_>>());
        let certificate = CertificateDer::from_pem_file(at.join(format!("{name}.crt"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(at.join(format!("{name}.key"))).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap())
    }
}

/// A request as a server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The name that was asked for in the greeting.
    pub name: Option<String>,
    /// Request line and headers.
    pub head: String,
    /// Its body.
    pub body: Vec<u8>,
}

type Answer = dyn Fn(&Seen, &mut dyn Write) + Send + Sync;

/// A server, and what it saw.
pub struct Server {
    /// Where it listens, on the loopback address.
    pub port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
}

impl Server {
    /// One without TLS.
    pub fn plain(answer: impl Fn(&Seen, &mut dyn Write) + Send + Sync + 'static) -> Self {
        Self::run(None, Arc::new(answer))
    }

    /// One over TLS.
    pub fn tls(config: Arc<ServerConfig>, answer: impl Fn(&Seen, &mut dyn Write) + Send + Sync + 'static) -> Self {
        Self::run(Some(config), Arc::new(answer))
    }

    fn run(tls: Option<Arc<ServerConfig>>, answer: Arc<Answer>) -> Self {
        reserve();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (seen, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let server = Self { port: listener.local_addr().unwrap().port(), seen, connections };
        let (seen, connections) = (Arc::clone(&server.seen), Arc::clone(&server.connections));
        std::thread::spawn(move || {
            for stream in listener.incoming().map(Result::unwrap) {
                *connections.lock().unwrap() += 1;
                stream.set_nodelay(true).unwrap();
                let (tls, answer, seen) = (tls.clone(), Arc::clone(&answer), Arc::clone(&seen));
                std::thread::spawn(move || converse(stream, tls, &seen, answer.as_ref()));
            }
        });
        server
    }

    /// Connections that were opened to it.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    /// Whole requests.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

thread_local! {
    static RESET: Cell<bool> = const { Cell::new(false) };
}

/// Has the connection that is being answered on this thread reset and not closed.
pub fn reset() {
    RESET.set(true);
}

/// What an attack does to a connection ends here: a handshake that fails, a client that is gone.
fn converse(mut stream: TcpStream, tls: Option<Arc<ServerConfig>>, seen: &Mutex<Vec<Seen>>, answer: &Answer) {
    let Some(config) = tls else {
        let Some(request) = request(&mut stream) else { return };
        seen.lock().unwrap().push(request.clone());
        answer(&request, &mut stream);
        if RESET.get() {
            rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
        }
        return;
    };
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    let mut first = [0; 1];
    if stream.read(&mut first).is_err() {
        return;
    }
    let name = stream.conn.server_name().map(str::to_owned);
    let Some(mut request) = request(&mut (&first[..]).chain(&mut stream)) else { return };
    request.name = name;
    seen.lock().unwrap().push(request.clone());
    answer(&request, &mut stream);
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

fn request(stream: &mut impl Read) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        // A greeting of TLS is no request.
        if head.is_empty() && byte[0] == 0x16 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |it| it.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Seen { name: None, head, body })
}

/// Writes an answer whose end its length says.
pub fn respond(out: &mut dyn Write, status: &str, headers: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len());
    let _ = out.write_all(&[head.as_bytes(), body].concat());
    let _ = out.flush();
}

/// A name server over TCP that answers A from `found`, whose second argument counts the questions for that name, and has
/// no other records.
pub fn name_server(found: impl Fn(&str, usize) -> Vec<Ipv4Addr> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut asked = std::collections::HashMap::<String, usize>::new();
        for mut stream in listener.incoming().map(Result::unwrap) {
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut query).unwrap();
                let (name, end) = name_of(&query);
                let mut addresses = Vec::new();
                if query[end..end + 2] == [0, 1] {
                    let count = asked.entry(name.clone()).or_default();
                    addresses = found(&name, *count);
                    *count += 1;
                }
                let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]].concat();
                answer.extend(&query[12..end + 4]);
                for address in addresses {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                    answer.extend(address.octets());
                }
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length, answer.as_slice()].concat()).unwrap();
            }
        }
    });
    address
}

fn name_of(query: &[u8]) -> (String, usize) {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] > 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..at + 1 + length].to_vec()).unwrap());
        at += length + 1;
    }
    (labels.join("."), at + 1)
}
