//! What is known to be wrong with the engine: its versions and its runtime's against a table of holes that have a number,
//! and how it runs. A pure judgement over what the engine says of itself.
//!
//! Hostile: the engine's words, which are bounded and shown, and decide nothing. A distribution may carry a fix under an
//! old number, and says so in no field; such a version is flagged with that remark and not passed over.

use bollard::models::{SystemInfo, SystemVersion};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::sandbox::{Component, Finding, Posture};

/// A hole, and the first version of each branch without it. Branches above the last one listed are without it; branches
/// below or between that are not listed were left as they were.
struct Hole {
    component: &'static str,
    number: &'static str,
    fixed: &'static [[u32; 3]],
    why: &'static str,
}

/// From the projects' advisories. Only what concerns who may make containers, or leads out of one.
const HOLES: &[Hole] = &[
    Hole {
        component: "runc",
        number: "CVE-2025-31133",
        fixed: &[[1, 2, 8], [1, 3, 3], [1, 4, 0]],
        why: "masked paths can be raced into writing to the host's /proc",
    },
    Hole {
        component: "runc",
        number: "CVE-2025-52565",
        fixed: &[[1, 2, 8], [1, 3, 3], [1, 4, 0]],
        why: "the mount of /dev/console can be raced into a path of the host",
    },
    Hole {
        component: "runc",
        number: "CVE-2025-52881",
        fixed: &[[1, 2, 8], [1, 3, 3], [1, 4, 0]],
        why: "writes to /proc can be redirected past the security labels",
    },
    Hole {
        component: "runc",
        number: "CVE-2024-21626",
        fixed: &[[1, 1, 12]],
        why: "a leaked descriptor as working directory leads to the host's file system",
    },
    Hole {
        component: "runc",
        number: "CVE-2021-30465",
        fixed: &[[1, 0, 0]],
        why: "mounts can be raced through symbolic links onto the host",
    },
    Hole {
        component: "containerd",
        number: "CVE-2024-25621",
        fixed: &[[1, 7, 29], [2, 0, 7], [2, 1, 5], [2, 2, 0]],
        why: "its directories are open to other users of the host",
    },
    Hole {
        component: "containerd",
        number: "CVE-2020-15257",
        fixed: &[[1, 3, 9], [1, 4, 3]],
        why: "its shim's socket can be reached from containers in the host's network",
    },
    Hole {
        component: "docker",
        number: "CVE-2024-41110",
        fixed: &[[23, 0, 15], [25, 0, 6], [26, 1, 5], [27, 1, 1]],
        why: "authorisation plug-ins can be passed by",
    },
];

/// `1.1.5+ds1-1` as 1.1.5, and whether something follows: a candidate (`-rc.3`) is before its version.
fn parse(version: &str) -> Option<([u32; 3], &str)> {
    let version = version.trim_start_matches('v');
    let end = version.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(version.len());
    let (numbers, rest) = version.split_at_checked(end)?;
    let mut parts = numbers.split('.').map(|part| part.parse::<u32>().ok());
    let parsed = [parts.next()??, parts.next().flatten().unwrap_or(0), parts.next().flatten().unwrap_or(0)];
    Some((parsed, rest))
}

impl Hole {
    fn is_in(&self, version: &str) -> bool {
        // A version that cannot be read is nobody's branch.
        let Some((found, rest)) = parse(version) else { return true };
        let candidate = rest.starts_with("-rc") || rest.starts_with("-beta") || rest.starts_with("-alpha");
        let branch = |[major, minor, _]: [u32; 3]| (major, minor);
        if let Some(fixed) = self.fixed.iter().find(|fixed| branch(**fixed) == branch(found)) {
            return found < *fixed || (candidate && found == *fixed);
        }
        self.fixed.iter().max().is_none_or(|newest| branch(found) < branch(*newest))
    }
}

/// Whether the version is a distribution's own build.
fn is_distributions(version: &str) -> bool {
    ["ds", "dfsg", "deb", "ubuntu", ".el", ".fc"].iter().any(|mark| version.contains(mark))
}

/// Judges an engine.
#[must_use]
pub fn posture(version: &SystemVersion, info: &SystemInfo) -> Posture {
    let mut components = vec![("docker", version.version.clone().unwrap_or_default())];
    for part in version.components.iter().flatten() {
        if let "containerd" | "runc" = part.name.as_str() {
            let name = if part.name == "runc" { "runc" } else { "containerd" };
            components.push((name, part.version.clone()));
        }
    }
    let options = info.security_options.as_deref().unwrap_or_default();
    let has = |name: &str| options.iter().any(|option| option.split(',').any(|part| part == format!("name={name}")));
    let findings = HOLES.iter().filter_map(|hole| {
        let (_, version) = components.iter().find(|(name, _)| *name == hole.component)?;
        let remark = if is_distributions(version) { "; a distribution's build, which may carry the fix" } else { "" };
        hole.is_in(version).then(|| Finding {
            component: BoundedStr::truncated(hole.component),
            number: BoundedStr::truncated(hole.number),
            why: BoundedStr::truncated(&format!("{}{remark}", hole.why)),
        })
    });
    // The table is shorter than what fits.
    let findings = BoundedVec::new(findings.collect()).unwrap_or_default();
    let component = |(name, version): (&str, String)| Component {
        name: BoundedStr::truncated(name),
        version: BoundedStr::truncated(&version),
    };
    Posture {
        components: BoundedVec::new(components.into_iter().take(4).map(component).collect()).unwrap_or_default(),
        rootless: has("rootless"),
        userns_remap: has("userns"),
        findings,
        ..Posture::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judge(docker: &str, containerd: &str, runc: &str, options: &[&str]) -> Posture {
        let version = json!({ "Version": docker, "Components": [
            { "Name": "Engine", "Version": docker }, { "Name": "containerd", "Version": containerd },
            { "Name": "runc", "Version": runc }, { "Name": "docker-init", "Version": "0.19.0" } ] });
        let info = json!({ "SecurityOptions": options });
        posture(&serde_json::from_value(version).unwrap(), &serde_json::from_value(info).unwrap())
    }

    fn numbers(posture: &Posture, component: &str) -> Vec<String> {
        let of = posture.findings.iter().filter(|finding| &*finding.component == component);
        of.map(|finding| finding.number.to_string()).collect()
    }

    #[test]
    fn debian_12_engine_is_flagged_with_each_number() {
        let found = judge("20.10.24+dfsg1", "1.6.20~ds1", "1.1.5+ds1", &["name=seccomp,profile=default"]);
        assert_eq!(numbers(&found, "runc"), ["CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881", "CVE-2024-21626"]);
        assert_eq!(numbers(&found, "containerd"), ["CVE-2024-25621"]);
        assert_eq!(numbers(&found, "docker"), ["CVE-2024-41110"]);
        assert!(found.findings.iter().all(|finding| finding.why.contains("may carry the fix")));
        assert!(!found.rootless && !found.userns_remap);
        let versions: Vec<&str> = found.components.iter().map(|component| &*component.version).collect();
        assert_eq!(versions, ["20.10.24+dfsg1", "1.6.20~ds1", "1.1.5+ds1"]);
    }

    #[test]
    fn current_engine_has_no_finding() {
        let found = judge("29.4.3", "2.2.1", "1.4.0", &["name=rootless", "name=userns", "name=cgroupns"]);
        assert!(found.findings.is_empty() && found.rootless && found.userns_remap, "{found:?}");
    }

    #[test]
    fn each_branch_is_held_to_its_own_first_fixed_version() {
        let runc = |version| numbers(&judge("29.0.0", "2.2.0", version, &[]), "runc").len();
        for (version, holes) in [
            ("1.0.0-rc94", 5),
            ("1.1.11", 4),
            ("1.1.12", 3),
            ("1.1.15", 3),
            ("1.2.7", 3),
            ("1.2.8", 0),
            ("1.3.2", 3),
            ("1.3.3", 0),
            ("1.4.0-rc.2", 3),
            ("1.4.0", 0),
            ("1.5.0-rc.1", 0),
            ("v1.3.4", 0),
            ("unknown", 5),
        ] {
            assert_eq!(runc(version), holes, "{version}");
        }
        assert_eq!(
            numbers(&judge("24.0.9", "2.2.0", "1.4.0", &[]), "docker").len(),
            1,
            "a branch that was left as it was"
        );
    }

    #[test]
    fn engine_that_says_nothing_of_itself_is_no_panic() {
        let found = posture(&SystemVersion::default(), &SystemInfo::default());
        assert_eq!(found.components.len(), 1);
    }
}
