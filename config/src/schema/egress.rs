//! `egress`: where requests may go.

use super::section;

section! {
    /// `egress`
    #[derive(Default)]
    pub struct Egress {
        /// Where requests may go: `host:port`, an entry each, over TLS. Empty allows nothing.
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
}

impl Egress {
    /// `host:port` of the services on this machine that speak TLS, or of those that do not.
    pub(crate) fn local(&self, tls: bool) -> impl Iterator<Item = String> {
        self.local.iter().filter_map(|entry| origin(entry)).filter(move |(secure, _)| *secure == tls).map(|(_, at)| at)
    }
}

/// `host:port` in lower case, where it is one.
pub(crate) fn host_and_port(entry: &str) -> Option<String> {
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
