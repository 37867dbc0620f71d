//! Rules about where commands run. The container is sealed in sandboxd; a word here that says otherwise is refused.

use super::{Findings, Severity};
use crate::schema::{Backend, Config, SandboxMode, SandboxScope, WorkspaceAccess};
use std::path::Path;

/// Largest memory of a sandbox, in bytes.
const MAX_MEMORY: u64 = 512 << 20;
/// Smallest with which a shell starts.
const MIN_MEMORY: u64 = 16 << 20;
/// Most of the processor, in thousandths.
const MAX_CPUS: u32 = 1_000;
/// Most processes.
const MAX_PIDS: u32 = 100;
/// Least that a native command may write.
const MIN_WRITES: u64 = 1 << 20;
/// Least that native commands leave free: below it a command's first file may be the one that fills the disk.
const MIN_FREE: u64 = 64 << 20;
const MIN_INODES: u64 = 1_024;
/// Most containers that wait.
const MAX_POOL: u8 = 8;

pub(super) fn rules(config: &Config, all: &mut Findings) {
    let sandbox = &config.agents.defaults.sandbox;
    let docker = &sandbox.docker;
    let at = |key: &str| format!("agents.defaults.sandbox.{key}");
    let off = sandbox.mode == SandboxMode::Off;
    all.refuse_if(
        off && !sandbox.dangerously_allow_off,
        "sandbox.mode_off",
        &at("mode"),
        "every command runs in a sandbox",
        "set it to non-main or all; sandbox.dangerouslyAllowOff: true would take it",
    );
    if off && sandbox.dangerously_allow_off {
        all.push(
            Severity::Critical,
            "sandbox.mode_off",
            &at("mode"),
            "no conversation has a sandbox of its own",
            "what a stranger's message runs can read and change the agent's workspace, and is beside the host's programs",
            "set it to non-main",
        );
    }
    all.refuse_if(
        off && sandbox.backend == Backend::Docker,
        "sandbox.mode_off_docker",
        &at("backend"),
        "mode off is the native backend for everybody, and only Docker may serve here",
        "set mode to all, or backend to auto",
    );
    if sandbox.dangerously_allow_off && !off {
        all.push(
            Severity::Warn,
            "sandbox.dangerously_allow_off",
            &at("dangerouslyAllowOff"),
            "mode may be set to off",
            "one word more, and no conversation has a sandbox of its own",
            "remove it",
        );
    }
    let sealed = "the container is sealed, and nothing opens it; leave the key out";
    for (is, key, title) in [
        (!docker.read_only_root, "readOnlyRoot", "the root of a sandbox is always read-only"),
        (docker.cap_drop != ["ALL"], "capDrop", "a sandbox never has a capability: it is [\"ALL\"]"),
        (docker.network != "none", "network", "a sandbox has no network: it is \"none\""),
        (
            docker.security_opt != ["no-new-privileges"],
            "securityOpt",
            "a sandbox always has no-new-privileges, and takes no other option",
        ),
        (!docker.binds.is_empty(), "binds", "no directory of the host is in a sandbox"),
        (docker.seccomp_profile.is_some(), "seccompProfile", "a filter of our own is always on"),
        (docker.apparmor_profile.is_some(), "apparmorProfile", "no other profile is taken"),
    ] {
        let path = at(&format!("docker.{key}"));
        all.refuse_if(is, "sandbox.docker.sealed", &path, title, sealed);
    }
    for (is, key, title) in [
        (
            !(MIN_MEMORY..=MAX_MEMORY).contains(&docker.memory.0),
            "memory",
            "the memory of a sandbox is between 16m and 512m",
        ),
        (
            docker.memory_swap.is_some_and(|swap| swap != docker.memory),
            "memorySwap",
            "a sandbox does not swap: it is the same as memory",
        ),
        (!(10..=MAX_CPUS).contains(&docker.cpus.0), "cpus", "a sandbox has between 0.01 and 1.0 of a processor"),
        (!(8..=MAX_PIDS).contains(&docker.pids_limit), "pidsLimit", "a sandbox has between 8 and 100 processes"),
        (!Path::new(&docker.socket).is_absolute(), "socket", "the path of the engine's socket is absolute"),
        (docker.image.is_empty(), "image", "the sandbox's image has a name"),
    ] {
        let path = at(&format!("docker.{key}"));
        all.refuse_if(is, "sandbox.docker.out_of_bounds", &path, title, "choose a value within the bounds");
    }
    let native = &sandbox.native;
    for (is, key, title) in [
        (native.memory.0 < MIN_MEMORY, "native.memory", "a command has at least 16m of memory"),
        (native.writes.0 < MIN_WRITES, "native.writes", "a command may write at least 1m"),
        (native.free_space.0 < MIN_FREE, "native.freeSpace", "at least 64m stay free for the logs"),
        (native.free_inodes < MIN_INODES, "native.freeInodes", "room for at least 1024 files stays free"),
        (sandbox.pool > MAX_POOL, "pool", "8 containers at most wait for a conversation"),
        (!(1..=8_760).contains(&sandbox.prune.idle_hours), "prune.idleHours", "it is between one hour and a year"),
        (!(1..=365).contains(&sandbox.prune.max_age_days), "prune.maxAgeDays", "it is between one day and a year"),
    ] {
        all.refuse_if(is, "sandbox.out_of_bounds", &at(key), title, "choose a value within the bounds");
    }
    if sandbox.scope != SandboxScope::Session {
        all.push(
            Severity::Warn,
            "sandbox.scope_shared",
            &at("scope"),
            "conversations share a sandbox",
            "what a stranger's message runs can read and change what another conversation's commands use",
            "set it to session",
        );
    }
    if sandbox.workspace_access == WorkspaceAccess::Rw {
        all.push(
            Severity::Info,
            "sandbox.workspace_rw",
            &at("workspaceAccess"),
            "sandboxes write an agent's workspace",
            "what a stranger's message runs can change what the agent reads next",
            "set it to none or ro",
        );
    }
}
