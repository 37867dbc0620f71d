//! Landlock and resource limits. The ruleset is built for exactly what the kernel has and must be enforced in full:
//! best effort would be a silent fallback.

use crate::policy::{Access, Policy, Ports};
use crate::startup::StartError;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::sys::resource::{Resource as LimitName, getrlimit, setrlimit};
use proto::control::{Layout, Resource};
use std::os::fd::BorrowedFd;

/// Newest Landlock ABI that the rulesets here are written for.
pub const NEWEST: u8 = 7;

/// The kernel's Landlock ABI, at most the newest known here; 0 where there is none.
#[must_use]
pub fn landlock_abi() -> u8 {
    // SAFETY: LANDLOCK_CREATE_RULESET_VERSION (1) takes a null attribute of size 0 and only returns a number.
    let abi =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0usize, 1u32) };
    u8::try_from(abi.max(0)).unwrap_or(NEWEST).min(NEWEST)
}

/// Oldest Landlock ABI that counts as a wall, and the Linux that brought it. Where every role has a uid of its own the
/// kernel keeps them from signalling each other; where they share one, only the scopes of ABI 6 do.
#[must_use]
pub const fn lowest(layout: Layout) -> (u8, &'static str) {
    match layout {
        Layout::SplitUid => (2, "Linux 6.1"),
        Layout::SingleUid => (6, "Linux 6.12"),
    }
}

/// Whether a kernel with this Landlock ABI can hold a role in this layout.
///
/// # Errors
/// [`StartError`], exit 78, with what is missing and what would help.
pub fn floor(layout: Layout, abi: u8) -> Result<(), StartError> {
    let (lowest, kernel) = lowest(layout);
    if abi >= lowest {
        return Ok(());
    }
    let (missing, way_out) = match layout {
        Layout::SplitUid => ("Landlock, with the right to move files ruled,", "with `landlock` in the lsm= list"),
        Layout::SingleUid => (
            "signals and abstract sockets ruled between roles of one uid",
            "or a start as root, which gives each role its own uid",
        ),
    };
    Err(StartError::permanent(format!(
        "this kernel's Landlock ABI is {abi} and layout {} needs {lowest}: {missing} ({kernel}, {way_out})",
        layout.name()
    )))
}

/// What a kernel above the floor still cannot do, said in `status` and in the log.
#[must_use]
pub fn lacks(abi: u8) -> Vec<&'static str> {
    let lacks = [
        (3, "Landlock cannot rule truncation (ABI 3)"),
        (4, "Landlock cannot rule TCP ports (ABI 4)"),
        (5, "Landlock cannot rule ioctl (ABI 5)"),
        (6, "Landlock cannot rule signals and abstract sockets (ABI 6)"),
    ];
    lacks.iter().filter(|(needs, _)| abi < *needs).map(|(_, lack)| *lack).collect()
}

const fn known(abi: u8) -> ABI {
    match abi {
        0 => ABI::Unsupported,
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        6 => ABI::V6,
        _ => ABI::V7,
    }
}

/// What a policy's Landlock domain rules on a kernel of this ABI, by the names of linux/landlock.h without their prefix.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Handled {
    /// Rights on files that nobody has but through a grant.
    pub files: Vec<String>,
    /// Rights on TCP ports that nobody has but through a grant.
    pub net: Vec<String>,
    /// What cannot be reached outside the domain.
    pub scopes: Vec<String>,
}

/// What the policy's domain rules. [`raise`] asks the kernel for exactly this.
#[must_use]
pub fn handled(policy: &Policy, abi: u8) -> Handled {
    let abi = known(abi);
    let files = if policy.landlock_files { AccessFs::from_all(abi) } else { BitFlags::empty() };
    Handled { files: names(files), net: names(AccessNet::from_all(abi)), scopes: names(Scope::from_all(abi)) }
}

/// The rights that a grant gives on a kernel of this ABI.
#[must_use]
pub fn granted(access: Access, abi: u8) -> Vec<String> {
    names(rights(access, known(abi)))
}

fn names(flags: impl IntoIterator<Item: std::fmt::Debug>) -> Vec<String> {
    flags.into_iter().map(|flag| format!("{flag:?}")).collect()
}

fn rights(access: Access, abi: ABI) -> BitFlags<AccessFs> {
    let wanted = match access {
        Access::ReadOnly => AccessFs::ReadFile | AccessFs::ReadDir,
        Access::Append => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::MakeReg,
        Access::ReadWrite => {
            AccessFs::ReadFile
                | AccessFs::ReadDir
                | AccessFs::WriteFile
                | AccessFs::MakeReg
                | AccessFs::RemoveFile
                | AccessFs::Refer
                | AccessFs::Truncate
        }
        Access::MakeDir => AccessFs::MakeDir.into(),
    };
    wanted & AccessFs::from_all(abi)
}

/// A directory that the policy grants, as the role holds it.
pub type Opened<'fd> = (Resource, BorrowedFd<'fd>);

/// Sets limits and enters the Landlock domain. Returns the ABI and what it lacks. A role does this through
/// [`crate::startup::Start::seal`]; by itself it is for who attacks this layer alone.
///
/// # Errors
/// [`StartError`], exit 78: also where `opened` and `ports` are not what the policy grants.
pub fn raise(
    policy: &Policy,
    opened: &[Opened<'_>],
    ports: &[u16],
    layout: Layout,
) -> Result<(u8, Vec<&'static str>), StartError> {
    compare(policy, opened, ports)?;
    limit(policy)?;
    let abi = landlock_abi();
    floor(layout, abi)?;
    enter(policy, opened, ports, known(abi)).map_err(|error| StartError::permanent(format!("Landlock: {error}")))?;
    Ok((abi, lacks(abi)))
}

/// What is given must be what was written down: a grant nobody can read in the policy is no grant.
fn compare(policy: &Policy, opened: &[Opened<'_>], ports: &[u16]) -> Result<(), StartError> {
    let planned = |kind: Resource| policy.grants.iter().any(|grant| grant.resource == kind);
    let given = |kind: Resource| opened.iter().filter(|(resource, _)| *resource == kind).count() == 1;
    if let Some((kind, _)) = opened.iter().find(|(kind, _)| !planned(*kind)) {
        return Err(StartError::permanent(format!("the policy of {} grants no {kind:?}", policy.role)));
    }
    if let Some(grant) = policy.grants.iter().find(|grant| !given(grant.resource)) {
        return Err(StartError::permanent(format!("{} must be given one {:?}", policy.role, grant.resource)));
    }
    if !ports.is_empty() && policy.ports == Ports::None {
        return Err(StartError::permanent(format!("the policy of {} grants no TCP port", policy.role)));
    }
    Ok(())
}

/// Sets `CORE` to 0 and the policy's own limits, soft and hard. Where a limit is lower already, it stays: an operator may be
/// stricter than the policy, and only a privileged process could go back.
///
/// # Errors
/// [`StartError`], exit 78.
pub fn limit(policy: &Policy) -> Result<(), StartError> {
    let core = [(LimitName::RLIMIT_CORE, 0)];
    for (resource, value) in core.into_iter().chain(policy.limits.iter().map(|limit| (limit.resource, limit.value))) {
        let failed = |errno| StartError::permanent(format!("{resource:?} cannot be set to {value}: {errno}"));
        let (_, hard) = getrlimit(resource).map_err(failed)?;
        let value = value.min(hard);
        setrlimit(resource, value, value).map_err(failed)?;
    }
    Ok(())
}

fn enter(policy: &Policy, opened: &[Opened<'_>], ports: &[u16], abi: ABI) -> Result<(), Box<dyn std::error::Error>> {
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let mut handled = false;
    if policy.landlock_files {
        ruleset = ruleset.handle_access(AccessFs::from_all(abi))?;
        handled = true;
    }
    if !AccessNet::from_all(abi).is_empty() {
        ruleset = ruleset.handle_access(AccessNet::from_all(abi))?;
        handled = true;
    }
    if !Scope::from_all(abi).is_empty() {
        ruleset = ruleset.scope(Scope::from_all(abi))?;
        handled = true;
    }
    if !handled {
        return Ok(());
    }
    let mut created = ruleset.create()?;
    for (kind, dir) in opened {
        for grant in policy.grants.iter().filter(|grant| grant.resource == *kind) {
            created = created.add_rule(PathBeneath::new(dir, rights(grant.access, abi)))?;
        }
    }
    if !AccessNet::from_all(abi).is_empty() {
        for port in ports {
            created = created.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
    }
    let status = created.restrict_self()?;
    if status.ruleset == RulesetStatus::FullyEnforced {
        Ok(())
    } else {
        Err("the ruleset is not fully enforced".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Grant;
    use proto::ids::Role;
    use std::os::fd::AsFd;

    const POLICY: Policy = Policy {
        role: Role::Gateway,
        rules: &[],
        soft: &[],
        limits: &[],
        grants: &[Grant { resource: Resource::SessionDir, access: Access::Append, why: "the test" }],
        ports: Ports::None,
        default_allow: false,
        landlock_files: true,
    };

    #[test]
    fn floor_of_one_uid_for_all_is_abi_6_and_names_what_is_missing() {
        for abi in 0..6 {
            let error = floor(Layout::SingleUid, abi).unwrap_err().to_string();
            for word in [&format!("ABI is {abi}"), "single-uid", "6", "signals", "Linux 6.12", "start as root"] {
                assert!(error.contains(word), "{error} lacks {word}");
            }
        }
        assert!((6..=NEWEST).all(|abi| floor(Layout::SingleUid, abi).is_ok()));
    }

    #[test]
    fn floor_of_a_uid_each_is_abi_2_and_names_the_kernel() {
        for abi in 0..2 {
            let error = floor(Layout::SplitUid, abi).unwrap_err().to_string();
            assert!(error.contains("Linux 6.1") && error.contains("lsm="), "{error}");
        }
        assert!((2..=NEWEST).all(|abi| floor(Layout::SplitUid, abi).is_ok()));
    }

    #[test]
    fn newest_abi_lacks_nothing_and_each_older_one_more() {
        assert!(lacks(NEWEST).is_empty());
        let counts: Vec<usize> = (2..=NEWEST).map(|abi| lacks(abi).len()).collect();
        assert_eq!(counts, [4, 3, 2, 1, 0, 0]);
    }

    #[test]
    fn directory_or_port_outside_the_policy_is_refused_before_anything_is_raised() {
        let dir = std::fs::File::open("/").unwrap();
        let sessions = (Resource::SessionDir, dir.as_fd());
        assert!(compare(&POLICY, &[sessions], &[]).is_ok());
        assert!(compare(&POLICY, &[], &[]).is_err(), "a grant without its directory");
        assert!(compare(&POLICY, &[sessions, sessions], &[]).is_err(), "twice");
        assert!(compare(&POLICY, &[sessions, (Resource::KeyDir, dir.as_fd())], &[]).is_err(), "one too many");
        assert!(compare(&POLICY, &[sessions], &[443]).is_err(), "a port");
        let with_ports = Policy { ports: Ports::Named { why: "the test" }, ..POLICY };
        assert!(compare(&with_ports, &[sessions], &[443]).is_ok());
    }
}
