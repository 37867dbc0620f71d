//! The one container there is, sealed here. After it was created the engine's word on it is compared field by field
//! before anything runs in it: an engine, or a plug-in of one, that changes a wall is found out.

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, HostConfig, HostConfigCgroupnsModeEnum, ResourcesUlimits,
};
use std::collections::HashMap;

/// Label that carries the installation; only containers with it are ever touched.
pub const INSTANCE: &str = "moltbot.instance";
/// uid and gid inside: nobody.
const NOBODY: &str = "65534:65534";
const MEMORY: i64 = 512 << 20;
const NANO_CPUS: i64 = 1_000_000_000;
const PIDS: i64 = 100;
const TMPFS: [(&str, &str); 2] = [
    ("/tmp", "rw,noexec,nosuid,nodev,size=64m"),
    ("/workspace", "rw,nosuid,nodev,size=64m,uid=65534,gid=65534,mode=0700"),
];

/// The container of one session. Its program is `cat` on an input that sandboxd holds: when sandboxd is gone, however
/// suddenly, the engine closes the input, `cat` ends, and the container is removed.
#[must_use]
pub fn container(image: &str, instance: &str) -> ContainerCreateBody {
    let text = |text: &str| text.to_owned();
    let limit = |name: &str, value| ResourcesUlimits { name: Some(text(name)), soft: Some(value), hard: Some(value) };
    ContainerCreateBody {
        hostname: Some(text("sandbox")),
        user: Some(text(NOBODY)),
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
        cmd: Some(vec![text("cat")]),
        entrypoint: Some(Vec::new()),
        image: Some(text(image)),
        working_dir: Some(text("/workspace")),
        network_disabled: Some(true),
        labels: Some(HashMap::from([(text(INSTANCE), text(instance))])),
        host_config: Some(HostConfig {
            memory: Some(MEMORY),
            memory_swap: Some(MEMORY),
            nano_cpus: Some(NANO_CPUS),
            pids_limit: Some(PIDS),
            init: Some(true),
            auto_remove: Some(true),
            network_mode: Some(text("none")),
            cap_drop: Some(vec![text("ALL")]),
            security_opt: Some(vec![text("no-new-privileges:true")]),
            readonly_rootfs: Some(true),
            privileged: Some(false),
            ipc_mode: Some(text("private")),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            oom_score_adj: Some(500),
            tmpfs: Some(TMPFS.iter().map(|(path, options)| (text(path), text(options))).collect()),
            ulimits: Some(vec![limit("nofile", 1_024), limit("core", 0)]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// Fields in which the container is not the one that was asked for; empty where it is.
#[must_use]
pub fn drift(found: &ContainerInspectResponse, instance: &str) -> Vec<&'static str> {
    let none = HostConfig::default();
    let host = found.host_config.as_ref().unwrap_or(&none);
    let config = found.config.as_ref();
    let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    let one = |list: &Option<Vec<String>>, only: &str| matches!(list.as_deref(), Some([item]) if item.trim_start_matches("CAP_") == only);
    let checks = [
        (config.and_then(|config| config.user.as_deref()) == Some(NOBODY), "User"),
        (
            config.and_then(|config| config.labels.as_ref()?.get(INSTANCE)).is_some_and(|label| label == instance),
            "Labels",
        ),
        (host.privileged == Some(false), "Privileged"),
        (one(&host.cap_drop, "ALL"), "CapDrop"),
        (empty(&host.cap_add), "CapAdd"),
        (
            host.security_opt
                .as_ref()
                .is_some_and(|list| matches!(list.as_slice(), [only] if only.starts_with("no-new-privileges"))),
            "SecurityOpt",
        ),
        (host.network_mode.as_deref() == Some("none"), "NetworkMode"),
        (host.readonly_rootfs == Some(true), "ReadonlyRootfs"),
        (host.memory == Some(MEMORY), "Memory"),
        (host.memory_swap == Some(MEMORY), "MemorySwap"),
        (host.nano_cpus == Some(NANO_CPUS), "NanoCpus"),
        (host.pids_limit == Some(PIDS), "PidsLimit"),
        (host.ipc_mode.as_deref() == Some("private"), "IpcMode"),
        (host.pid_mode.as_deref().unwrap_or_default().is_empty(), "PidMode"),
        (host.uts_mode.as_deref().unwrap_or_default().is_empty(), "UTSMode"),
        (host.userns_mode.as_deref().unwrap_or_default().is_empty(), "UsernsMode"),
        (host.cgroupns_mode == Some(HostConfigCgroupnsModeEnum::PRIVATE), "CgroupnsMode"),
        (empty(&host.binds), "Binds"),
        (host.mounts.as_ref().is_none_or(Vec::is_empty), "Mounts"),
        (empty(&host.volumes_from), "VolumesFrom"),
        (host.devices.as_ref().is_none_or(Vec::is_empty), "Devices"),
        (host.device_requests.as_ref().is_none_or(Vec::is_empty), "DeviceRequests"),
        (empty(&host.group_add), "GroupAdd"),
        (host.masked_paths.as_ref().is_some_and(|paths| paths.iter().any(|path| path == "/proc/kcore")), "MaskedPaths"),
        (
            host.readonly_paths.as_ref().is_some_and(|paths| paths.iter().any(|path| path == "/proc/sys")),
            "ReadonlyPaths",
        ),
        (host.tmpfs.as_ref().is_some_and(|tmpfs| tmpfs.len() == TMPFS.len()), "Tmpfs"),
    ];
    checks.into_iter().filter(|(ok, _)| !ok).map(|(_, field)| field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ContainerConfig;

    /// What an engine that does as it is told says of the container.
    fn honest() -> ContainerInspectResponse {
        let asked = container("image", "i1");
        let mut host = asked.host_config.clone().unwrap();
        host.masked_paths = Some(vec!["/proc/kcore".into()]);
        host.readonly_paths = Some(vec!["/proc/sys".into()]);
        ContainerInspectResponse {
            config: Some(ContainerConfig { user: asked.user, labels: asked.labels, ..ContainerConfig::default() }),
            host_config: Some(host),
            ..ContainerInspectResponse::default()
        }
    }

    #[test]
    fn container_as_asked_for_shows_no_drift() {
        assert!(drift(&honest(), "i1").is_empty(), "{:?}", drift(&honest(), "i1"));
    }

    #[test]
    fn each_wall_that_an_engine_leaves_out_is_found() {
        type Change = (&'static str, fn(&mut HostConfig));
        let changes: [Change; 12] = [
            ("Privileged", |host| host.privileged = Some(true)),
            ("CapDrop", |host| host.cap_drop = None),
            ("CapAdd", |host| host.cap_add = Some(vec!["SYS_ADMIN".into()])),
            ("SecurityOpt", |host| host.security_opt.as_mut().unwrap().push("seccomp=unconfined".into())),
            ("NetworkMode", |host| host.network_mode = Some("bridge".into())),
            ("ReadonlyRootfs", |host| host.readonly_rootfs = Some(false)),
            ("Memory", |host| host.memory = Some(0)),
            ("PidsLimit", |host| host.pids_limit = None),
            ("PidMode", |host| host.pid_mode = Some("host".into())),
            ("IpcMode", |host| host.ipc_mode = Some("host".into())),
            ("Binds", |host| host.binds = Some(vec!["/:/host".into()])),
            ("MaskedPaths", |host| host.masked_paths = Some(Vec::new())),
        ];
        for (field, change) in changes {
            let mut found = honest();
            change(found.host_config.as_mut().unwrap());
            assert_eq!(drift(&found, "i1"), [field]);
        }
        assert_eq!(drift(&honest(), "another"), ["Labels"]);
    }
}
