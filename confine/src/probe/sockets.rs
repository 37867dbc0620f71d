//! Sockets: making them, and doing more with those that are held.

use super::call::{at, attempt, call, descriptor, judge, words};
use super::{Exception, Outcome, Probe, World, except, except_single_uid};
use libc::{AF_INET, AF_INET6, AF_UNIX, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM};
use proto::ids::Role;
use std::os::fd::AsRawFd;

const LAUNCHER: Exception = except(
    Role::Launcher,
    "sandboxed programs may make sockets in a network of their own; Landlock keeps TCP and abstract ones in",
);
const SOCKETS: &[Exception] = &[LAUNCHER];
const DIALS: &[Exception] = &[LAUNCHER, except(Role::Dialer, "TCP outwards is its work; Landlock rules the ports")];
const ENGINE: &[Exception] = &[LAUNCHER, except(Role::Sandboxd, "the engine listens on such a socket")];
const DOCKER: &[Exception] = &[
    except(Role::Sandboxd, "Docker is its work"),
    except_single_uid(
        Role::Launcher,
        "it has the operator's uid, and Landlock rules no connecting to paths below ABI 9",
    ),
];
const DOOR: &[Exception] = &[except_single_uid(
    Role::Launcher,
    "Landlock rules no connecting to paths below ABI 9; broker turns its own children away",
)];
const NO_FAMILY: &[(i32, &str)] = &[
    (libc::EAFNOSUPPORT, "kernel without this family"),
    (libc::EPROTONOSUPPORT, "kernel without this protocol"),
    (libc::ESOCKTNOSUPPORT, "kernel without this type"),
    (libc::EPERM, "family that root is not allowed either, in this place"),
];
const AF_ALG: i32 = 38;
const AF_XDP: i32 = 44;
const AF_BLUETOOTH: i32 = 31;
const IPPROTO_MPTCP: i32 = 262;
const IPPROTO_SCTP: i32 = 132;
/// What connect says when the wall let it through.
const REACHED: &[i32] = &[libc::ECONNREFUSED, libc::EPROTOTYPE, libc::EAGAIN, libc::EINPROGRESS, libc::EISCONN];

pub(super) static PROBES: &[Probe] = &[
    Probe::new("socket_inet_stream", |_| socket(AF_INET, SOCK_STREAM, 0)).except(DIALS),
    Probe::new("socket_inet_dgram", |_| socket(AF_INET, SOCK_DGRAM, 0)).except(SOCKETS),
    Probe::new("socket_inet_icmp", |_| socket(AF_INET, SOCK_DGRAM, libc::IPPROTO_ICMP))
        .except(SOCKETS)
        .lacking(&[(libc::EACCES, "no group may ping in this network")]),
    Probe::new("socket_inet_raw", |_| socket(AF_INET, SOCK_RAW, libc::IPPROTO_ICMP)),
    Probe::new("socket_inet_mptcp", |_| socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP)).except(SOCKETS).lacking(NO_FAMILY),
    Probe::new("socket_inet_sctp", |_| socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP)).except(SOCKETS).lacking(NO_FAMILY),
    Probe::new("socket_inet6_stream", |_| socket(AF_INET6, SOCK_STREAM, 0)).except(DIALS).lacking(NO_FAMILY),
    Probe::new("socket_inet6_dgram", |_| socket(AF_INET6, SOCK_DGRAM, 0)).except(SOCKETS).lacking(NO_FAMILY),
    Probe::new("socket_unix_stream", |_| socket(AF_UNIX, SOCK_STREAM, 0)).except(ENGINE),
    Probe::new("socket_unix_dgram", |_| socket(AF_UNIX, SOCK_DGRAM, 0)).except(SOCKETS),
    Probe::new("socket_netlink", |_| socket(libc::AF_NETLINK, SOCK_RAW, 0)).except(SOCKETS),
    Probe::new("socket_packet", |_| socket(libc::AF_PACKET, SOCK_RAW, 0)).lacking(NO_FAMILY),
    Probe::new("socket_vsock", |_| socket(libc::AF_VSOCK, SOCK_STREAM, 0)).except(SOCKETS).lacking(NO_FAMILY),
    Probe::new("socket_alg", |_| socket(AF_ALG, SOCK_SEQPACKET, 0)).except(SOCKETS).lacking(NO_FAMILY),
    Probe::new("socket_bluetooth", |_| socket(AF_BLUETOOTH, SOCK_RAW, 1)).except(SOCKETS).lacking(NO_FAMILY),
    Probe::new("socket_xdp", |_| socket(AF_XDP, SOCK_RAW, 0)).lacking(NO_FAMILY),
    Probe::new("socket_key", |_| socket(libc::AF_KEY, SOCK_RAW, 2)).lacking(NO_FAMILY),
    Probe::new("socketpair", |_| socketpair()).except(SOCKETS),
    Probe::new("connect_docker", |world| connect_path(&world.targets.docker_socket, SOCK_STREAM)).except(DOCKER),
    Probe::new("connect_operator", connect_operator).except(DOOR),
    Probe::new("connect_abstract", connect_abstract),
    Probe::new("connect_tcp", |world| connect_tcp(world.targets.port, 0)),
    Probe::new("connect_mptcp", |world| connect_tcp(world.targets.port, IPPROTO_MPTCP))
        .except(SOCKETS)
        .lacking(NO_FAMILY),
    Probe::new("connect_tcp_by_sendto", |world| fast_open(world.targets.port))
        .except(SOCKETS)
        .lacking(&[(libc::EOPNOTSUPP, "kernel without TCP fast open")]),
    Probe::new("sendto_udp", |world| sendto_udp(world.targets.port)).except(SOCKETS),
    Probe::new("bind_tcp", |_| bind_inet(SOCK_STREAM)),
    Probe::new("bind_udp", |_| bind_inet(SOCK_DGRAM)).except(SOCKETS),
    Probe::new("bind_abstract", |_| bind_abstract()).except(SOCKETS),
    Probe::new("bind_held", |world| bind_held(world.socket)).except(SOCKETS),
    Probe::new("connect_held", connect_held).except(&[
        LAUNCHER,
        except(Role::Sandboxd, "the engine's socket; a connected one says that it is"),
        except(Role::Dialer, "TCP outwards is its work; a connected one says that it is"),
    ]),
    Probe::new("listen_held", |world| attempt(libc::SYS_listen, words![world.socket, 1], &[libc::EINVAL]))
        .except(SOCKETS),
    Probe::new("accept_held", |world| accept(world, libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK))
        .except(&[LAUNCHER, except(Role::Gateway, "clients, on the listener that broker bound")]),
    Probe::new("accept_held_inheritable", |world| accept(world, 0)).except(SOCKETS),
    Probe::new("setsockopt_held", |world| setsockopt(world.socket)).except(SOCKETS),
    Probe::new("setsockopt_nodelay", |world| nodelay(world.socket)).except(&[
        LAUNCHER,
        except(Role::Gateway, "frames are not held back"),
        except(Role::Dialer, "requests are not held back"),
    ]),
    Probe::new("sendto_address_bare", |world| sendto_bare(world.targets.port)).except(SOCKETS),
    Probe::new("fast_open_bare", |_| fast_open_on(-1, 9)).except(SOCKETS),
    Probe::new("fast_open_bare_sendmsg", |_| fast_open_by_sendmsg()).except(SOCKETS),
    Probe::new("listener_shutdown", |world| shut(world, libc::SHUT_RD)).matrix_only(),
    Probe::new("listener_shutdown_write", |world| shut(world, libc::SHUT_WR))
        .except(&[except(Role::Gateway, "an orderly end of a stream; a listener has nothing to write")])
        .matrix_only(),
    Probe::new("listener_to_client", listener_to_client)
        .matrix_only()
        .lacking(&[(libc::EINVAL, "kernel where a socket that has listened connects nowhere")]),
];

fn socket(family: i32, kind: i32, protocol: i32) -> Outcome {
    judge(descriptor(libc::SYS_socket, words![family, kind | libc::SOCK_CLOEXEC, protocol]), &[])
}

fn socketpair() -> Outcome {
    let mut pair = [0i32; 2];
    attempt(libc::SYS_socketpair, words![AF_UNIX, SOCK_STREAM | libc::SOCK_CLOEXEC, 0, at(&mut pair)], &[])
}

/// The kernel's `struct sockaddr_un`, and how much of it counts.
fn unix(name: &[u8]) -> ([u8; 110], u64) {
    let mut address = [0u8; 110];
    let mut length = 2;
    for (to, from) in address.iter_mut().zip(AF_UNIX.to_ne_bytes().iter().take(2).chain(name)) {
        *to = *from;
    }
    length += name.len().min(108) as u64;
    (address, length)
}

/// 127.0.0.1 and a port as `struct sockaddr_in`.
fn loopback(port: u16) -> [u8; 16] {
    let [high, low] = port.to_be_bytes();
    let [first, second, ..] = AF_INET.to_ne_bytes();
    [first, second, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// Connects a new socket.
fn connect(family: i32, kind: i32, protocol: i32, address: &mut [u8; 110], length: u64) -> Outcome {
    match descriptor(libc::SYS_socket, words![family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol]) {
        Ok(socket) => attempt(libc::SYS_connect, words![socket.as_raw_fd(), at(address), length], REACHED),
        Err(errno) => Outcome::Denied(errno),
    }
}

fn connect_path(path: &str, kind: i32) -> Outcome {
    let (mut address, length) = unix(path.as_bytes());
    connect(AF_UNIX, kind, 0, &mut address, length.saturating_add(1).min(110))
}

fn connect_operator(world: &World) -> Outcome {
    connect_path(&format!("{}/run/operator.sock", &*world.targets.state_dir), SOCK_SEQPACKET)
}

fn connect_abstract(world: &World) -> Outcome {
    let (mut address, length) = unix(format!("\0{}", &*world.targets.abstract_name).as_bytes());
    connect(AF_UNIX, SOCK_STREAM, 0, &mut address, length)
}

fn connect_tcp(port: u16, protocol: i32) -> Outcome {
    let mut address = [0u8; 110];
    for (to, from) in address.iter_mut().zip(loopback(port)) {
        *to = from;
    }
    connect(AF_INET, SOCK_STREAM, protocol, &mut address, 16)
}

/// A connection without connect: the first bytes go with the opening packet.
fn fast_open(port: u16) -> Outcome {
    match descriptor(libc::SYS_socket, words![AF_INET, SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0]) {
        Ok(socket) => fast_open_on(socket.as_raw_fd(), port),
        Err(errno) => Outcome::Denied(errno),
    }
}

fn fast_open_on(socket: i32, port: u16) -> Outcome {
    let (mut address, mut byte) = (loopback(port), [b'x']);
    let flags = libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    let words = words![socket, at(&mut byte), 1, flags, at(&mut address), 16];
    let behind: &[i32] = if socket < 0 { &[libc::EBADF] } else { REACHED };
    attempt(libc::SYS_sendto, words, behind)
}

fn fast_open_by_sendmsg() -> Outcome {
    // No such descriptor: what a filter lets through ends there.
    attempt(libc::SYS_sendmsg, words![-1, 0, libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL], &[libc::EBADF])
}

fn sendto_udp(port: u16) -> Outcome {
    let (mut address, mut byte) = (loopback(port), [b'x']);
    match descriptor(libc::SYS_socket, words![AF_INET, SOCK_DGRAM | libc::SOCK_CLOEXEC, 0]) {
        Ok(socket) => {
            attempt(libc::SYS_sendto, words![socket.as_raw_fd(), at(&mut byte), 1, 0, at(&mut address), 16], REACHED)
        }
        Err(errno) => Outcome::Denied(errno),
    }
}

fn bind_inet(kind: i32) -> Outcome {
    let mut address = loopback(0);
    match descriptor(libc::SYS_socket, words![AF_INET, kind | libc::SOCK_CLOEXEC, 0]) {
        Ok(socket) => attempt(libc::SYS_bind, words![socket.as_raw_fd(), at(&mut address), 16], &[]),
        Err(errno) => Outcome::Denied(errno),
    }
}

/// With the family alone the kernel chooses an abstract name.
fn bind_abstract() -> Outcome {
    match descriptor(libc::SYS_socket, words![AF_UNIX, SOCK_STREAM | libc::SOCK_CLOEXEC, 0]) {
        Ok(socket) => bind_held(socket.as_raw_fd()),
        Err(errno) => Outcome::Denied(errno),
    }
}

fn bind_held(socket: i32) -> Outcome {
    let (mut address, length) = unix(b"");
    attempt(libc::SYS_bind, words![socket, at(&mut address), length], &[])
}

fn connect_held(world: &World) -> Outcome {
    let (mut address, length) = unix(world.targets.docker_socket.as_bytes());
    let behind = [REACHED, &[libc::EACCES]].concat();
    attempt(libc::SYS_connect, words![world.socket, at(&mut address), length.saturating_add(1).min(110)], &behind)
}

/// On a listener where there is one. It does not block, and nobody calls.
fn accept(world: &World, flags: i32) -> Outcome {
    let socket = world.held.listener.unwrap_or(world.socket);
    attempt(libc::SYS_accept4, words![socket, 0, 0, flags], &[libc::EINVAL, libc::EAGAIN])
}

/// On a socket that is not TCP's, so that it is asked in vain.
fn nodelay(socket: i32) -> Outcome {
    let mut on = 1i32;
    let words = words![socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, at(&mut on), 4];
    attempt(libc::SYS_setsockopt, words, &[libc::EOPNOTSUPP, libc::ENOPROTOOPT])
}

/// With the flags that a stream's bytes are sent with, and an address.
fn sendto_bare(port: u16) -> Outcome {
    let (mut address, mut byte) = (loopback(port), [b'x']);
    let words = words![-1, at(&mut byte), 1, libc::MSG_NOSIGNAL, at(&mut address), 16];
    attempt(libc::SYS_sendto, words, &[libc::EBADF])
}

/// `SO_KEEPALIVE` 0, which is what it is.
fn setsockopt(socket: i32) -> Outcome {
    let mut off = 0i32;
    attempt(libc::SYS_setsockopt, words![socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, at(&mut off), 4], &[])
}

/// Takes a held listener down for everybody who has it.
fn shut(world: &World, how: i32) -> Outcome {
    world.held.listener.map_or(Outcome::Absent, |listener| attempt(libc::SYS_shutdown, words![listener, how], &[]))
}

/// A held listener is shut down, which makes it a socket like any new one, and connected without connect.
fn listener_to_client(world: &World) -> Outcome {
    let Some(listener) = world.held.listener else { return Outcome::Absent };
    match call(libc::SYS_shutdown, words![listener, libc::SHUT_RDWR]) {
        Ok(_) => fast_open_on(listener, world.targets.port),
        Err(errno) => Outcome::Denied(errno),
    }
}
