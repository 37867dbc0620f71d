//! Where dialer may connect: pure decisions over the operator's list and the hosts file. An empty list allows nothing.

use proto::edge::Refusal;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The operator's `host:port` entries and the names of the hosts file, both read before the walls went up.
#[derive(Clone, Debug, Default)]
pub struct Allowlist {
    entries: Vec<String>,
    hosts: Vec<(String, IpAddr)>,
}

impl Allowlist {
    /// `entries` as configured; `hosts_file` in the format of hosts(5).
    #[must_use]
    pub fn new(entries: Vec<String>, hosts_file: &str) -> Self {
        let mut hosts = Vec::new();
        for line in hosts_file.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            if let Some(address) = words.next().and_then(|word| word.parse().ok()) {
                hosts.extend(words.map(|name| (name.to_ascii_lowercase(), address)));
            }
        }
        Self { entries, hosts }
    }

    /// The ports of the list, for Landlock.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.entries.iter().filter_map(|entry| entry.rsplit_once(':')?.1.parse().ok()).collect()
    }

    /// The address to connect to. The caller connects to exactly this one: it is not resolved a second time.
    ///
    /// # Errors
    /// [`Refusal`] that names the rule and the narrowest thing that would allow it.
    pub fn decide(&self, host: &str, port: u16) -> Result<SocketAddr, Refusal> {
        let host = host.to_ascii_lowercase();
        let wanted = format!("{host}:{port}");
        if !self.entries.iter().any(|entry| entry.eq_ignore_ascii_case(&wanted)) {
            return Err(Refusal::new(
                "dialer.not_allowed",
                &format!(
                    "{wanted} is not on the list; the line \"egress\": {{\"allow\": [\"{wanted}\"]}} in moltbot.json would allow it"
                ),
            ));
        }
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        let named = || self.hosts.iter().find(|(name, _)| *name == host).map(|(_, address)| *address);
        let Some(address) = literal.or_else(named) else {
            return Err(Refusal::new(
                "dialer.unresolved",
                &format!("{host} is neither an address nor a name in the hosts file"),
            ));
        };
        if is_internal(address) {
            return Err(Refusal::new(
                "dialer.private_address",
                &format!("{host} is {address}, which is not a public address; nothing allows that"),
            ));
        }
        Ok(SocketAddr::new(address, port))
    }
}

/// True for every address that is not plainly on the public internet (RFC 6890 and the metadata services of clouds).
#[must_use]
pub fn is_internal(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_internal_v4(v4),
        IpAddr::V6(v6) => is_internal_v6(v6),
    }
}

fn is_internal_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_broadcast()
        || v4.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19))
}

fn is_internal_v6(v6: Ipv6Addr) -> bool {
    let [first, second, ..] = v6.segments();
    let global = first & 0xe000 == 0x2000;
    // Forms that carry an IPv4 address are refused as a whole: 6to4 and Teredo beside the mapped ones.
    !global || first == 0x2002 || (first == 0x2001 && (second == 0 || second == 0x0db8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Allowlist {
        let entries = entries.iter().map(|entry| (*entry).to_owned()).collect();
        Allowlist::new(entries, "# a comment\n127.0.0.1 localhost\n93.184.216.34 example.org www.example.org # both\n")
    }

    fn rule(list: &Allowlist, host: &str, port: u16) -> String {
        list.decide(host, port).unwrap_err().rule.to_string()
    }

    #[test]
    fn empty_list_allows_nothing_and_names_the_line_that_would() {
        let refusal = list(&[]).decide("example.org", 443).unwrap_err();
        assert_eq!(refusal.rule.as_str(), "dialer.not_allowed");
        assert!(refusal.message.contains("\"example.org:443\""));
    }

    #[test]
    fn listed_host_and_port_are_allowed_and_their_neighbours_are_not() {
        let list = list(&["example.org:443"]);
        assert_eq!(list.decide("Example.ORG", 443).unwrap(), "93.184.216.34:443".parse().unwrap());
        assert_eq!(rule(&list, "example.org", 80), "dialer.not_allowed");
        assert_eq!(rule(&list, "www.example.org", 443), "dialer.not_allowed");
    }

    #[test]
    fn listed_internal_addresses_are_refused_all_the_same() {
        for host in [
            "localhost",
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "[::1]",
            "[::ffff:93.184.216.34]",
            "[fe80::1]",
            "[fc00::1]",
            "[2002:7f00:1::]",
        ] {
            let entry = format!("{host}:443");
            assert_eq!(rule(&list(&[entry.as_str()]), host, 443), "dialer.private_address", "{host}");
        }
        assert!(list(&["[2606:2800:220:1::1]:443"]).decide("[2606:2800:220:1::1]", 443).is_ok());
    }

    #[test]
    fn listed_name_that_resolves_nowhere_is_refused() {
        assert_eq!(rule(&list(&["nowhere.example:443"]), "nowhere.example", 443), "dialer.unresolved");
    }
}
