//! `egress`: where requests may go, beside what the model providers name.

use serde::{Deserialize, Serialize};

/// `egress`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Egress {
    /// `host:port`, an entry each. Empty allows nothing.
    pub allow: Vec<String>,
    /// Services on this machine, as `http://localhost:11434`: reached at a loopback address or not at all. Only they are
    /// spoken to without TLS, where the entry says `http`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub local: Vec<String>,
    /// Address and port of the name server, asked over TCP. Empty is the first one of `/etc/resolv.conf`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resolver: String,
    /// Absolute path of certificates in PEM form that are trusted beside the web's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ca: String,
}

impl Egress {
    /// What is wrong with it.
    ///
    /// # Errors
    /// In words, with the key.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (at, entry) in self.allow.iter().enumerate() {
            if host_and_port(entry).is_none() {
                return Err(format!("egress.allow[{at}]: {entry:?} is not host:port; wildcards are not taken"));
            }
        }
        for (at, entry) in self.local.iter().enumerate() {
            if origin(entry).is_none() {
                return Err(format!("egress.local[{at}]: {entry:?} is not http://host:port or https://host:port"));
            }
        }
        if !self.resolver.is_empty() && self.resolver.parse::<std::net::SocketAddr>().is_err() {
            return Err(format!("egress.resolver: {:?} is not an address with a port, as 9.9.9.9:53", self.resolver));
        }
        if !self.ca.is_empty() && !std::path::Path::new(&self.ca).is_absolute() {
            return Err(format!("egress.ca: {:?} is not an absolute path", self.ca));
        }
        Ok(())
    }

    /// `host:port` of the services on this machine that speak TLS, or of those that do not.
    pub(crate) fn local(&self, tls: bool) -> impl Iterator<Item = String> {
        self.local.iter().filter_map(|entry| origin(entry)).filter(move |(secure, _)| *secure == tls).map(|(_, at)| at)
    }
}

/// `host:port` in lower case, where it is one.
fn host_and_port(entry: &str) -> Option<String> {
    let (host, port) = entry.rsplit_once(':')?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'[' | b']' | b':');
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    (!host.is_empty() && host.bytes().all(plain)).then(|| format!("{}:{port}", host.to_ascii_lowercase()))
}

/// Whether a URL says TLS, and its `host:port`; what comes behind the port is not looked at.
pub(crate) fn origin(url: &str) -> Option<(bool, String)> {
    let (tls, rest, port) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest, 443),
        (None, Some(rest)) => (false, rest, 80),
        (None, None) => return None,
    };
    let authority = rest.split('/').next().unwrap_or(rest);
    let named = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let whole = if named { authority.to_owned() } else { format!("{authority}:{port}") };
    host_and_port(&whole).map(|at| (tls, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_is_the_scheme_and_the_host_with_its_port() {
        for (url, found) in [
            ("https://api.example.org/v1", Some((true, "api.example.org:443"))),
            ("http://LocalHost:11434", Some((false, "localhost:11434"))),
            ("http://[::1]:8080/v1", Some((false, "[::1]:8080"))),
            ("http://[::1]/v1", Some((false, "[::1]:80"))),
            ("https://user@example.org/", None),
            ("ftp://example.org", None),
            ("https://example.org:0", None),
            ("https://:443", None),
        ] {
            assert_eq!(origin(url), found.map(|(tls, at)| (tls, at.to_owned())), "{url}");
        }
    }
}
