//! How much a unit of systemd leaves open, by systemd's own measure.

use std::io::Read as _;
use std::process::{Command, Stdio};

/// A unit and its points.
#[derive(Clone, Debug, PartialEq)]
pub struct Exposure {
    /// Its name, as `moltbot.service`.
    pub unit: String,
    /// 0.0, nothing, to 10.0, everything. Source: systemd-analyze(1), `security`.
    pub points: f32,
}

/// The unit that a process runs in, and its points; nothing where it is in none, or systemd does not say.
#[must_use]
pub fn of_process(pid: u32) -> Option<Exposure> {
    let unit = unit_of(&std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)?;
    let mut child = Command::new("systemd-analyze")
        .args(["security", "--no-pager", &unit])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut said = String::new();
    let read = child.stdout.take()?.take(1 << 20).read_to_string(&mut said);
    // Its status says nothing more: the points may be over systemd's own bound.
    let _ = child.wait();
    read.ok()?;
    Some(Exposure { points: points_of(&said)?, unit })
}

/// The last part of a path of control groups that is a service. Source: cgroups(7), `/proc/PID/cgroup`.
fn unit_of(cgroup: &str) -> Option<String> {
    let paths = cgroup.lines().filter(|line| line.starts_with("0::") || line.contains(":name=systemd:"));
    let mut parts = paths.filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/'));
    parts.rfind(|part| part.ends_with(".service") && !part.starts_with("user@")).map(str::to_owned)
}

/// What stands behind the arrow in the last line.
fn points_of(said: &str) -> Option<f32> {
    let (_, rest) = said.lines().rev().find_map(|line| line.split_once("exposure level for "))?;
    let (_, rest) = rest.split_once(": ")?;
    rest.split_whitespace().next()?.parse().ok().filter(|points| (0.0..=10.0).contains(points))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_is_the_service_that_a_process_is_in() {
        let unified = "0::/system.slice/moltbot.service\n";
        assert_eq!(unit_of(unified).as_deref(), Some("moltbot.service"));
        let both = "12:cpu:/a\n1:name=systemd:/system.slice/moltbot.service/init\n0::/\n";
        assert_eq!(unit_of(both).as_deref(), Some("moltbot.service"));
        assert_eq!(unit_of("0::/user.slice/user-1.slice/user@1.service/app.slice/run.scope\n"), None);
        assert_eq!(unit_of("3:cpu:/system.slice/moltbot.service\n"), None);
    }

    #[test]
    fn points_are_read_where_systemd_says_them_and_nowhere_else() {
        let said = "  NAME   DESCRIPTION\n\n→ Overall exposure level for moltbot.service: 4.2 OK :-)\n";
        assert_eq!(points_of(said), Some(4.2));
        for odd in
            ["", "Overall exposure level for x.service:", "exposure level for x: 11 NO", "exposure level for x: y"]
        {
            assert_eq!(points_of(odd), None, "{odd}");
        }
    }
}
