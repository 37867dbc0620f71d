//! Landlock and resource limits. The ruleset is built for exactly what the kernel has and must be enforced in full:
//! best effort would be a silent fallback.

use crate::policy::{Access, Grant, Policy};
use crate::startup::StartError;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::sys::resource::{Resource, setrlimit};

/// Newest Landlock ABI that the rulesets here are written for.
const NEWEST: u8 = 7;
/// Oldest that counts as a wall: below it a role does not start.
const FLOOR: u8 = 2;

/// The kernel's Landlock ABI, at most the newest known here; 0 where there is none.
#[must_use]
pub fn landlock_abi() -> u8 {
    // SAFETY: LANDLOCK_CREATE_RULESET_VERSION (1) takes a null attribute of size 0 and only returns a number.
    let abi =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0usize, 1u32) };
    u8::try_from(abi.max(0)).unwrap_or(NEWEST).min(NEWEST)
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

/// Sets limits and enters the Landlock domain. Returns the ABI and what it lacks.
pub(crate) fn raise(policy: &Policy, grants: &[Grant<'_>], ports: &[u16]) -> Result<(u8, Vec<String>), StartError> {
    limit(policy)?;
    let abi = landlock_abi();
    if abi < FLOOR {
        return Err(StartError::permanent(format!(
            "this kernel's Landlock ABI is {abi} and at least {FLOOR} is needed (Linux 6.1, with landlock in the lsm= list)"
        )));
    }
    enter(policy, grants, ports, known(abi)).map_err(|error| StartError::permanent(format!("Landlock: {error}")))?;
    let lacks = [
        (4, "Landlock cannot rule TCP ports (ABI 4)"),
        (5, "Landlock cannot rule ioctl (ABI 5)"),
        (6, "Landlock cannot rule signals and abstract sockets (ABI 6)"),
    ];
    Ok((abi, lacks.iter().filter(|(needs, _)| abi < *needs).map(|(_, lack)| (*lack).to_owned()).collect()))
}

/// Sets `CORE` to 0 and the policy's own limits.
pub(crate) fn limit(policy: &Policy) -> Result<(), StartError> {
    let core = [(Resource::RLIMIT_CORE, 0)];
    for (resource, value) in core.into_iter().chain(policy.limits.iter().map(|limit| (limit.resource, limit.value))) {
        setrlimit(resource, value, value)
            .map_err(|errno| StartError::permanent(format!("{resource:?} cannot be set to {value}: {errno}")))?;
    }
    Ok(())
}

fn enter(policy: &Policy, grants: &[Grant<'_>], ports: &[u16], abi: ABI) -> Result<(), Box<dyn std::error::Error>> {
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
    for grant in grants {
        created = created.add_rule(PathBeneath::new(grant.dir, rights(grant.access, abi)))?;
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
