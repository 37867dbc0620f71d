//! Where dialer may connect: pure decisions over the operator's lists and the hosts file. Empty lists allow nothing.
//!
//! A name is looked at twice: before it is resolved, whether it is listed; and after that, every address that it has. One
//! address that is not where the list says refuses them all: that is what rebinding looks like.

use proto::edge::Refusal;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The operator's `host:port` entries and the names of the hosts file, both read before the walls went up.
#[derive(Clone, Debug, Default)]
pub struct Allowlist {
    entries: Vec<String>,
    local: Vec<String>,
    hosts: Vec<(String, IpAddr)>,
}

/// What is known of a listed name before it is resolved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Known {
    /// Its addresses: it is one itself, or stands in the hosts file.
    Here(Vec<IpAddr>),
    /// Nothing: the name server knows.
    Ask,
}

impl Allowlist {
    /// `entries` on the internet and `local` on this machine, as configured; `hosts_file` in the format of hosts(5).
    #[must_use]
    pub fn new(entries: Vec<String>, local: Vec<String>, hosts_file: &str) -> Self {
        let mut hosts = Vec::new();
        for line in hosts_file.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            if let Some(address) = words.next().and_then(|word| word.parse().ok()) {
                hosts.extend(words.map(|name| (name.to_ascii_lowercase(), address)));
            }
        }
        Self { entries, local, hosts }
    }

    /// The ports of the lists, for Landlock.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.entries.iter().chain(&self.local).filter_map(|entry| entry.rsplit_once(':')?.1.parse().ok()).collect()
    }

    fn is_local(&self, host: &str, port: u16) -> bool {
        let wanted = format!("{host}:{port}");
        self.local.iter().any(|entry| entry.eq_ignore_ascii_case(&wanted))
    }

    /// May this be connected to, by its name?
    ///
    /// # Errors
    /// [`Refusal`] that names the rule and the narrowest thing that would allow it.
    pub fn look(&self, host: &str, port: u16) -> Result<Known, Refusal> {
        let host = host.to_ascii_lowercase();
        let wanted = format!("{host}:{port}");
        if !self.is_local(&host, port) && !self.entries.iter().any(|entry| entry.eq_ignore_ascii_case(&wanted)) {
            return Err(Refusal::new(
                "dialer.not_allowed",
                &format!(
                    "{wanted} is not on the list; the line \"egress\": {{\"allow\": [\"{wanted}\"]}} in moltbot.json would allow it"
                ),
            ));
        }
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(Known::Here(vec![address]));
        }
        let named: Vec<IpAddr> =
            self.hosts.iter().filter(|(name, _)| *name == host).map(|(_, address)| *address).collect();
        Ok(if named.is_empty() { Known::Ask } else { Known::Here(named) })
    }

    /// The addresses to connect to, in order. The caller connects to exactly these: nothing is resolved a second time.
    ///
    /// # Errors
    /// [`Refusal`] where there is none, or one that the name must not have.
    pub fn check(&self, host: &str, port: u16, addresses: &[IpAddr]) -> Result<Vec<SocketAddr>, Refusal> {
        if addresses.is_empty() {
            let why = format!("{host} has no address, neither in the hosts file nor by the name server");
            return Err(Refusal::new("dialer.unresolved", &why));
        }
        let local = self.is_local(host, port);
        if let Some(other) = addresses.iter().find(|address| local && !address.is_loopback()) {
            let why = format!("{host} is {other}, and what egress.local lists must be on this machine");
            return Err(Refusal::new("dialer.not_local", &why));
        }
        if let Some(internal) = addresses.iter().find(|address| !local && is_internal(**address)) {
            let why = format!("{host} is {internal}, which is not a public address; nothing allows that");
            return Err(Refusal::new("dialer.private_address", &why));
        }
        Ok(addresses.iter().map(|address| SocketAddr::new(*address, port)).collect())
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

    fn list(entries: &[&str], local: &[&str]) -> Allowlist {
        let owned = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect();
        let hosts =
            "# a comment\n127.0.0.1 localhost\n::1 localhost\n93.184.216.34 example.org www.example.org # both\n";
        Allowlist::new(owned(entries), owned(local), hosts)
    }

    fn decide(list: &Allowlist, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let known = list.look(host, port).map_err(|refusal| refusal.rule.to_string())?;
        let Known::Here(addresses) = known else { return Err("ask".to_owned()) };
        list.check(host, port, &addresses).map_err(|refusal| refusal.rule.to_string())
    }

    #[test]
    fn empty_list_allows_nothing_and_names_the_line_that_would() {
        let refusal = list(&[], &[]).look("example.org", 443).unwrap_err();
        assert_eq!(refusal.rule.as_str(), "dialer.not_allowed");
        assert!(refusal.message.contains("\"example.org:443\""));
    }

    #[test]
    fn listed_host_and_port_are_allowed_and_their_neighbours_are_not() {
        let list = list(&["example.org:443"], &[]);
        assert_eq!(decide(&list, "Example.ORG", 443).unwrap(), ["93.184.216.34:443".parse().unwrap()]);
        assert_eq!(decide(&list, "example.org", 80).unwrap_err(), "dialer.not_allowed");
        assert_eq!(decide(&list, "www.example.org", 443).unwrap_err(), "dialer.not_allowed");
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
            "[::ffff:127.0.0.1]",
            "[64:ff9b::a9fe:a9fe]",
            "[fe80::1]",
            "[fc00::1]",
            "[ff02::1]",
            "[2002:7f00:1::]",
        ] {
            let entry = format!("{host}:443");
            assert_eq!(
                decide(&list(&[entry.as_str()], &[]), host, 443).unwrap_err(),
                "dialer.private_address",
                "{host}"
            );
        }
        assert!(decide(&list(&["[2606:2800:220:1::1]:443"], &[]), "[2606:2800:220:1::1]", 443).is_ok());
    }

    #[test]
    fn local_service_is_reached_on_loopback_and_nowhere_else() {
        let list = list(&[], &["localhost:11434", "models.test:80", "93.184.216.34:80"]);
        let both = ["127.0.0.1:11434".parse().unwrap(), "[::1]:11434".parse().unwrap()];
        assert_eq!(decide(&list, "localhost", 11434).unwrap(), both);
        assert_eq!(decide(&list, "localhost", 80).unwrap_err(), "dialer.not_allowed");
        assert_eq!(decide(&list, "93.184.216.34", 80).unwrap_err(), "dialer.not_local");
        assert!(list.check("models.test", 80, &["127.9.9.9".parse().unwrap()]).is_ok());
        let mapped = ["::ffff:127.0.0.1".parse().unwrap()];
        assert_eq!(list.check("models.test", 80, &mapped).unwrap_err().rule.as_str(), "dialer.not_local");
    }

    #[test]
    fn name_is_asked_for_and_one_bad_address_of_several_refuses_it() {
        let list = list(&["api.example:443"], &[]);
        assert_eq!(list.look("api.example", 443).unwrap(), Known::Ask);
        assert_eq!(list.check("api.example", 443, &[]).unwrap_err().rule.as_str(), "dialer.unresolved");
        let (good, bad) = ("93.184.216.34".parse().unwrap(), "127.0.0.1".parse().unwrap());
        assert!(list.check("api.example", 443, &[good]).is_ok());
        for mixed in [[good, bad], [bad, good]] {
            assert_eq!(list.check("api.example", 443, &mixed).unwrap_err().rule.as_str(), "dialer.private_address");
        }
    }
}
