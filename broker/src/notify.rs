//! What the service manager is told, where there is one (sd_notify(3)): that the set serves, that it ends, and that the
//! roles still answer.

use crate::log::{self, Priority};
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The service manager's socket, if there is one.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
    told: Option<Instant>,
}

impl Notify {
    /// Connects to the socket that the environment names. Without one there is nobody to tell.
    ///
    /// # Errors
    /// Where the environment names a socket that is not there.
    pub fn from_environment() -> std::io::Result<Self> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(Self::default()) };
        let usec: Option<u64> = std::env::var("WATCHDOG_USEC").ok().and_then(|usec| usec.parse().ok());
        let for_us = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        Self::connect(&name, usec.filter(|_| for_us).map(Duration::from_micros))
    }

    fn connect(name: &OsStr, watchdog: Option<Duration>) -> std::io::Result<Self> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        Ok(Self { socket: Some(socket), watchdog, told: None })
    }

    fn tell(&self, words: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(words.as_bytes())
        {
            log::broker(Priority::Warning, &format!("the service manager cannot be told: {error}"));
        }
    }

    /// The set serves.
    pub fn ready(&self) {
        self.tell("READY=1\nSTATUS=every role serves");
    }

    /// The set ends.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// The roles answer: said twice within the time after which the service manager ends a set that does not.
    pub fn alive(&mut self) {
        let Some(watchdog) = self.watchdog else { return };
        if self.told.is_none_or(|told| told.elapsed() >= watchdog / 2) {
            self.told = Some(Instant::now());
            self.tell("WATCHDOG=1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(manager: &UnixDatagram) -> String {
        let mut words = [0u8; 256];
        let count = manager.recv(&mut words).unwrap();
        String::from_utf8_lossy(&words[..count]).into_owned()
    }

    #[test]
    fn manager_hears_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let named = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::connect(path.as_os_str(), None).unwrap();
        notify.ready();
        assert!(hear(&named).starts_with("READY=1\n"));
        let name = format!("moltbot-notify.{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let unnamed = UnixDatagram::bind_addr(&address).unwrap();
        Notify::connect(OsStr::new(&format!("@{name}")), None).unwrap().stopping();
        assert_eq!(hear(&unnamed), "STOPPING=1");
        assert!(Notify::connect(dir.path().join("nobody").as_os_str(), None).is_err());
    }

    #[test]
    fn watchdog_is_fed_at_half_its_time_and_never_without_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let mut notify = Notify::connect(path.as_os_str(), Some(Duration::from_secs(3_600))).unwrap();
        notify.alive();
        assert_eq!(hear(&manager), "WATCHDOG=1");
        notify.alive();
        assert!(manager.recv(&mut [0; 8]).is_err(), "half its time has not passed");
        notify.watchdog = Some(Duration::ZERO);
        notify.alive();
        assert_eq!(hear(&manager), "WATCHDOG=1");
        notify.watchdog = None;
        notify.alive();
        assert!(manager.recv(&mut [0; 8]).is_err());
    }
}
