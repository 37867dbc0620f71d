//! The one container there is, sealed here: nothing of it comes from a request, and of the operator's words only how large
//! it is, by which of two runtimes it is made, and whether its agent's workspace is in it. What the engine made of it is
//! compared by `drift` before anything runs in it.

use crate::modes::Runtime;
use crate::seccomp;
use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount,
    MountBindOptions, MountBindOptionsPropagationEnum, MountType, ResourcesUlimits,
};
use proto::control::Sizes;
use proto::runner::PROGRAM;
use std::collections::HashMap;

/// Label that carries the installation; only containers with it are ever touched.
pub const INSTANCE: &str = "moltbot.instance";
/// Label that carries which start of sandboxd made it.
pub const EPOCH: &str = "moltbot.epoch";
/// uid and gid inside: nobody.
const NOBODY: u32 = 65_534;
/// Where a container works, and where it sees its agent's workspace if it may only read that.
const WORKSPACE: &str = "/workspace";
const AGENT: &str = "/agent";
/// Largest file in a workspace that outlives its container, in bytes: as in a native sandbox.
const LARGEST: i64 = 64 << 20;
const TMPFS: [(&str, &str); 2] = [("/tmp", "rw,noexec,nosuid,nodev"), ("/workspace", "rw,nosuid,nodev")];
/// Part of the container's memory that each of them may take: what they hold counts as its memory, so together with the
/// inodes they must leave enough for a shell, or a session that filled them never answers again.
const TMPFS_SHARE: i64 = 8;
/// Bytes of memory per inode of each: an empty file costs about 1 KiB of the container's memory.
const INODE_SHARE: i64 = 16 << 10;

/// What tells about this machine, or is kernel surface that no command needs; more than engines mask by themselves.
const MASKED: [&str; 52] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/buddyinfo",
    "/proc/bus",
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/consoles",
    "/proc/crypto",
    "/proc/devices",
    "/proc/diskstats",
    "/proc/dma",
    "/proc/driver",
    "/proc/dynamic_debug",
    "/proc/execdomains",
    "/proc/fb",
    "/proc/fs",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/irq",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/locks",
    "/proc/mdstat",
    "/proc/misc",
    "/proc/modules",
    "/proc/mtrr",
    "/proc/pagetypeinfo",
    "/proc/partitions",
    "/proc/pressure",
    "/proc/sched_debug",
    "/proc/schedstat",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/softirqs",
    "/proc/swaps",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/tty",
    "/proc/vmallocinfo",
    "/proc/zoneinfo",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel",
];
/// What may be looked at. The rest of what engines write-protect is masked above.
const READONLY: [&str; 2] = ["/proc/sys", "/sys/fs"];

/// The image, as it was when the engine was taken on: a tag that is moved later changes nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Image {
    /// Digest of its configuration, which is its name.
    pub id: String,
    /// What it adds to the environment.
    pub env: Vec<String>,
    /// It holds a runner of this version.
    pub has_runner: bool,
}

/// A workspace of the host that is in a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bind {
    /// Its absolute path on the host.
    pub source: String,
    /// Whose it is, and who the container's processes are for that reason.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// As `/workspace`, to be written; otherwise as `/agent`, to be read.
    pub writable: bool,
}

/// What of a container is not the same in each.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Shape {
    /// How large it is.
    pub sizes: Sizes,
    /// By which of the engine's runtimes it is made; by its default where none is named.
    pub runtime: Option<Runtime>,
    /// The workspace that is in it.
    pub bind: Option<Bind>,
}

impl Shape {
    /// Whose its processes are, as `uid:gid`.
    #[must_use]
    pub fn user(&self) -> String {
        let (uid, gid) = self.ids();
        format!("{uid}:{gid}")
    }

    fn ids(&self) -> (u32, u32) {
        self.bind.as_ref().map_or((NOBODY, NOBODY), |bind| (bind.uid, bind.gid))
    }

    fn mounts(&self) -> Option<Vec<Mount>> {
        let bind = self.bind.as_ref()?;
        let propagation = Some(MountBindOptionsPropagationEnum::RPRIVATE);
        Some(vec![Mount {
            target: Some(if bind.writable { WORKSPACE } else { AGENT }.to_owned()),
            source: Some(bind.source.clone()),
            typ: Some(MountType::BIND),
            // An engine leaves a no out when it is read back.
            read_only: (!bind.writable).then_some(true),
            bind_options: Some(MountBindOptions { propagation, ..MountBindOptions::default() }),
            ..Mount::default()
        }])
    }

    fn tmpfs(&self, memory: i64) -> HashMap<String, String> {
        let writable = self.bind.as_ref().is_some_and(|bind| bind.writable);
        let own = TMPFS.iter().filter(|(path, _)| !(writable && *path == WORKSPACE));
        own.map(|(path, options)| ((*path).to_owned(), tmpfs(options, memory, self.ids()))).collect()
    }
}

/// The container of one session. Its program is the runner, or `cat` where the image has none, on an input that sandboxd
/// holds: when sandboxd is gone, however suddenly, the engine closes the input, the program ends, and the container is
/// removed.
#[must_use]
pub fn container(image: &Image, instance: &str, epoch: &str, shape: &Shape) -> ContainerCreateBody {
    let sizes = shape.sizes;
    // An engine takes 0 for no limit at all, so what was asked for is held between a floor and the most there is.
    let most = Sizes::default();
    let memory = i64::try_from(sizes.memory.clamp(6 << 20, most.memory)).unwrap_or(512 << 20);
    let cpus = i64::from(sizes.millicpus.clamp(10, most.millicpus)) * 1_000_000;
    let pids = i64::from(sizes.pids.clamp(2, most.pids));
    let text = |text: &str| text.to_owned();
    let texts = |list: &[&str]| Some(list.iter().copied().map(str::to_owned).collect());
    let limit = |name: &str, value| ResourcesUlimits { name: Some(text(name)), soft: Some(value), hard: Some(value) };
    let mut limits = vec![limit("nofile", 1_024), limit("core", 0)];
    limits.extend(shape.bind.as_ref().map(|_| limit("fsize", LARGEST)));
    ContainerCreateBody {
        hostname: Some(text("sandbox")),
        user: Some(shape.user()),
        attach_stdin: Some(true),
        open_stdin: Some(true),
        stdin_once: Some(true),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        tty: Some(false),
        env: Some(vec![
            text("PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"),
            text("LANG=C.UTF-8"),
            text("HOME=/workspace"),
        ]),
        cmd: Some(if image.has_runner { vec![text(PROGRAM), text("serve")] } else { vec![text("cat")] }),
        entrypoint: Some(Vec::new()),
        image: Some(image.id.clone()),
        working_dir: Some(text(WORKSPACE)),
        network_disabled: Some(true),
        // An image's own check would be a command that nobody asked for.
        healthcheck: Some(HealthConfig { test: texts(&["NONE"]), ..HealthConfig::default() }),
        labels: Some(HashMap::from([(text(INSTANCE), text(instance)), (text(EPOCH), text(epoch))])),
        host_config: Some(HostConfig {
            memory: Some(memory),
            memory_swap: Some(memory),
            nano_cpus: Some(cpus),
            pids_limit: Some(pids),
            init: Some(true),
            auto_remove: Some(true),
            network_mode: Some(text("none")),
            runtime: shape.runtime.map(|runtime| text(runtime.name())),
            mounts: shape.mounts(),
            cap_drop: Some(vec![text("ALL")]),
            security_opt: Some(vec![text("no-new-privileges:true"), format!("seccomp={}", seccomp::profile())]),
            masked_paths: texts(&MASKED),
            readonly_paths: texts(&READONLY),
            // What a command writes is gateway's, and is not kept by the engine besides.
            log_config: Some(HostConfigLogConfig { typ: Some(text("none")), config: None }),
            readonly_rootfs: Some(true),
            privileged: Some(false),
            ipc_mode: Some(text("private")),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            oom_score_adj: Some(500),
            tmpfs: Some(shape.tmpfs(memory)),
            ulimits: Some(limits),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

fn tmpfs(options: &str, memory: i64, (uid, gid): (u32, u32)) -> String {
    let (size, inodes) = (memory / TMPFS_SHARE, memory / INODE_SHARE);
    format!("{options},size={size},nr_inodes={inodes},uid={uid},gid={gid},mode=0700")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_held_between_a_floor_and_the_most_there_is() {
        let shape = |sizes| Shape { sizes, ..Shape::default() };
        let host = |sizes| container(&Image::default(), "i", "e", &shape(sizes)).host_config.unwrap();
        let none = host(Sizes { memory: 0, millicpus: 0, pids: 0 });
        let some = host(Sizes { memory: 64 << 20, millicpus: 500, pids: 20 });
        let all = host(Sizes { memory: u64::MAX, millicpus: u32::MAX, pids: u32::MAX });
        let sizes = |host: &HostConfig| (host.memory, host.memory_swap, host.nano_cpus, host.pids_limit);
        assert_eq!(sizes(&none), (Some(6 << 20), Some(6 << 20), Some(10_000_000), Some(2)));
        assert_eq!(sizes(&some), (Some(64 << 20), Some(64 << 20), Some(500_000_000), Some(20)));
        assert_eq!(sizes(&all), (Some(512 << 20), Some(512 << 20), Some(1_000_000_000), Some(100)));
    }

    #[test]
    fn workspace_of_the_host_is_in_a_container_as_far_as_it_is_to_be_and_nothing_else_is() {
        let made = |bind| container(&Image::default(), "i", "e", &Shape { bind, ..Shape::default() });
        let bind = |writable| Some(Bind { source: "/state/workspaces/0".into(), uid: 7, gid: 8, writable });
        let (none, read, write) = (made(None), made(bind(false)), made(bind(true)));
        assert_eq!(none.user.as_deref(), Some("65534:65534"));
        assert!(none.host_config.as_ref().unwrap().mounts.is_none());
        for (body, target, tmpfs) in [(&read, "/agent", 2), (&write, "/workspace", 1)] {
            let host = body.host_config.as_ref().unwrap();
            let [mount] = host.mounts.as_deref().unwrap() else { panic!("one") };
            assert_eq!((body.user.as_deref(), mount.target.as_deref()), (Some("7:8"), Some(target)));
            assert_eq!(mount.read_only, (target == "/agent").then_some(true));
            assert_eq!(mount.source.as_deref(), Some("/state/workspaces/0"));
            let places = host.tmpfs.as_ref().unwrap();
            assert!(places.len() == tmpfs && places["/tmp"].contains("uid=7,gid=8"), "{places:?}");
            assert!(host.ulimits.as_ref().unwrap().iter().any(|limit| limit.name.as_deref() == Some("fsize")));
        }
        assert!(none.host_config.unwrap().runtime.is_none());
        let runsc =
            container(&Image::default(), "i", "e", &Shape { runtime: Some(Runtime::Runsc), ..Shape::default() });
        assert_eq!(runsc.host_config.unwrap().runtime.as_deref(), Some("runsc"));
    }
}
