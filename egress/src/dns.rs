//! Names into addresses, by the one name server that was configured, over TCP (RFC 1035, RFC 7766): so dialer needs no
//! datagram socket, and Landlock rules the name server's port as it rules the others. An answer is hostile; whatever it
//! says, the allowlist looks at the addresses before one is connected to.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const A: u16 = 1;
const AAAA: u16 = 28;
const INTERNET: u16 = 1;
/// Addresses of one name that are looked at.
const MOST: usize = 16;

/// The first name server of a resolv.conf(5), with the port of DNS.
#[must_use]
pub fn server_of(resolv_conf: &str) -> Option<SocketAddr> {
    resolv_conf.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        Some(SocketAddr::new(address.parse().ok()?, 53))
    })
}

/// Asks for both families over one connection.
///
/// # Errors
/// What the connection or the answer lacks.
pub async fn resolve(server: SocketAddr, host: &str) -> io::Result<Vec<IpAddr>> {
    let mut stream = TcpStream::connect(server).await?;
    let mut found = Vec::new();
    for kind in [A, AAAA] {
        let mut id = [0; 2];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
        let question = question(host, kind).ok_or_else(|| bad("the name is not one"))?;
        let query = [&id, b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".as_slice(), &question].concat();
        let length = u16::try_from(query.len()).map_err(|_| bad("the name is too long"))?;
        stream.write_all(&[&length.to_be_bytes(), query.as_slice()].concat()).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        found.extend(addresses(&answer, id, &question).ok_or_else(|| bad("the answer of the name server is none"))?);
    }
    found.truncate(MOST);
    Ok(found)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The question's part of a message: name, type, class.
fn question(host: &str, kind: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for label in host.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        bytes.push(length);
        bytes.extend_from_slice(label.to_ascii_lowercase().as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&INTERNET.to_be_bytes());
    (bytes.len() <= 259).then_some(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_be_bytes)
}

/// Where a name ends: labels up to the root, or up to a pointer, which is not followed.
fn behind_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return at.checked_add(1),
            length @ 1..=63 => at = at.checked_add(usize::from(length))?.checked_add(1)?,
            192.. => return at.checked_add(2),
            _ => return None,
        }
    }
}

/// The addresses of the asked kind in an answer; none where it is no answer to this question.
fn addresses(answer: &[u8], id: [u8; 2], question: &[u8]) -> Option<Vec<IpAddr>> {
    let flags = u16_at(answer, 2)?;
    if answer.get(..2)? != id || flags & 0x8000 == 0 || u16_at(answer, 4)? != 1 {
        return None;
    }
    let after = question.len().checked_add(12)?;
    if !answer.get(12..after)?.eq_ignore_ascii_case(question) {
        return None;
    }
    // No such name, or a server that fails: no address either way.
    if flags & 0xf != 0 {
        return Some(Vec::new());
    }
    let wanted = u16_at(question, question.len().checked_sub(4)?)?;
    let (mut at, mut found) = (after, Vec::new());
    for _ in 0..u16_at(answer, 6)? {
        at = behind_name(answer, at)?;
        let (kind, class) = (u16_at(answer, at)?, u16_at(answer, at.checked_add(2)?)?);
        let length = usize::from(u16_at(answer, at.checked_add(8)?)?);
        let from = at.checked_add(10)?;
        at = from.checked_add(length)?;
        let data = answer.get(from..at)?;
        if (kind, class) != (wanted, INTERNET) {
            continue;
        }
        found.push(match kind {
            A => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?)),
            _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?)),
        });
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: [u8; 2] = [7, 9];

    fn answer(question: &[u8], flags: u16, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = ID.to_vec();
        for word in [flags, 1, u16::try_from(records.len()).unwrap(), 0, 0] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(question);
        for (kind, data) in records {
            bytes.extend([0xc0, 12]);
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1, 0, 0, 0, 60]);
            bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend(*data);
        }
        bytes
    }

    #[test]
    fn addresses_behind_an_alias_are_found() {
        let question = question("Api.Example.org", A).unwrap();
        let records: [(u16, &[u8]); 3] = [(5, b"\x01x\x00"), (A, &[192, 0, 2, 1]), (A, &[192, 0, 2, 2])];
        let found = addresses(&answer(&question, 0x8180, &records), ID, &question).unwrap();
        assert_eq!(found, ["192.0.2.1".parse::<IpAddr>().unwrap(), "192.0.2.2".parse().unwrap()]);
        assert!(addresses(&answer(&question, 0x8183, &[]), ID, &question).unwrap().is_empty(), "no such name");
    }

    #[test]
    fn answers_to_something_else_are_none() {
        let asked = question("api.example.org", A).unwrap();
        let other = question("other.example.org", A).unwrap();
        let record: [(u16, &[u8]); 1] = [(A, &[192, 0, 2, 1])];
        assert!(addresses(&answer(&other, 0x8180, &record), ID, &asked).is_none());
        assert!(addresses(&answer(&asked, 0x0100, &record), ID, &asked).is_none(), "a question");
        assert!(addresses(&answer(&asked, 0x8180, &record), [0, 0], &asked).is_none(), "another id");
        assert!(addresses(&answer(&asked, 0x8180, &[(A, &[1, 2])]), ID, &asked).is_none(), "half an address");
    }

    #[test]
    fn names_that_are_none_are_not_asked_for() {
        for name in ["", "a..b", &"a".repeat(64), &"abcdefgh.".repeat(40)] {
            assert!(question(name, A).is_none(), "{name}");
        }
    }

    #[test]
    fn server_of_a_resolv_conf_is_its_first() {
        assert_eq!(server_of("# x\nsearch a\nnameserver 192.0.2.53\nnameserver ::1\n"), "192.0.2.53:53".parse().ok());
        assert_eq!(server_of("options edns0\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let question = question("a.b", A).unwrap();
            let _ = addresses(&bytes, ID, &question);
            let whole = [&ID[..], &[0x81, 0x80, 0, 1, 0, 9, 0, 0, 0, 0], &question, &bytes].concat();
            let _ = addresses(&whole, ID, &question);
        }
    }
}
