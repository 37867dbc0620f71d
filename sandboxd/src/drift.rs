//! Whether the container that the engine made is the one that was asked for, field by field.
//!
//! Hostile: the engine's answer, all of it. A field that was asked for must come back as it was; one that was not asked for
//! must be empty, whatever it is called; the few that are the engine's own business are listed with the reason. An engine
//! that changes a wall and then says what was asked for is not found out here: the runner's first word is the second look.

use crate::spec::Image;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, Mount, MountPoint};
use serde::Serialize;
use serde_json::{Map, Value};

/// A field, and whether it may be this.
type Own = (&'static str, fn(&Value) -> bool);

/// Fields of `HostConfig` that an engine fills in by itself, and what they may be; none of them is a wall.
const ENGINES_OWN: &[Own] = &[
    // Size of a terminal that there is none of.
    ("ConsoleSize", |_| true),
    // Size of /dev/shm, which counts against the memory limit.
    ("ShmSize", |value| value.as_u64().is_some_and(|size| size <= 64 << 20)),
    // Which runtime makes it: those that read the same specification.
    ("Runtime", |value| matches!(value.as_str(), Some("runc" | "io.containerd.runc.v2" | "crun" | "runsc" | "oci"))),
    // No restart.
    ("RestartPolicy", |value| {
        matches!(value.get("Name").and_then(Value::as_str), None | Some("" | "no"))
            && value.get("MaximumRetryCount").is_none_or(|count| count == 0)
    }),
];

/// Fields of `Config` that come from the image and start nothing.
const IMAGES_OWN: &[&str] = &["ExposedPorts", "StopSignal", "Shell", "ArgsEscaped", "OnBuild", "StopTimeout"];

/// Fields in which the container `id` is not the one that was asked for, by name; empty where it is.
#[must_use]
pub fn drift(found: &ContainerInspectResponse, id: &str, asked: &ContainerCreateBody, image: &Image) -> Vec<String> {
    let mut drift = Vec::new();
    let mut check = |field: &str, holds: bool| {
        if !holds {
            drift.push(field.to_owned());
        }
    };
    check("Id", found.id.as_deref() == Some(id));
    check("Image", found.image.as_deref() == Some(&*image.id));
    let command = || asked.entrypoint.iter().chain(&asked.cmd).flatten();
    check("Path", found.path.as_ref() == command().next());
    check("Args", found.args.iter().flatten().eq(command().skip(1)));
    check("State", found.state.as_ref().is_none_or(|state| state.pid.is_none_or(|pid| pid == 0)));
    check("ExecIDs", found.exec_ids.as_ref().is_none_or(Vec::is_empty));
    check("AppArmorProfile", found.app_armor_profile.as_deref() != Some("unconfined"));
    // The tmpfs mounts stand in HostConfig; some engines list them here as well.
    let mounts = found.mounts.as_deref().unwrap_or_default();
    let other: Vec<&MountPoint> = mounts.iter().filter(|mount| mount.typ.as_deref() != Some("tmpfs")).collect();
    let wanted = asked.host_config.as_ref().and_then(|host| host.mounts.as_deref()).unwrap_or_default();
    check(
        "Mounts",
        other.len() == wanted.len() && other.iter().zip(wanted).all(|(found, asked)| is_bind(found, asked)),
    );
    let none = Map::new();
    let (asked_host, found_host) = (object(&asked.host_config), object(&found.host_config));
    for (field, value) in &found_host {
        let own = ENGINES_OWN.iter().find(|(name, _)| name == field);
        let holds = match (asked_host.get(field), own) {
            (Some(asked), _) => same(asked, value),
            (None, Some((_, allowed))) => allowed(value),
            (None, None) => is_empty(value),
        };
        check(field, holds);
    }
    missing(&asked_host, &found_host).for_each(|field| check(field, false));
    // HostConfig is a part of the create call alone; its other fields are named as Config's are.
    let mut asked_config = object(asked);
    asked_config.remove("HostConfig");
    let found_config = object(&found.config);
    for (field, value) in &found_config {
        let asked = asked_config.get(field);
        let holds = match field.as_str() {
            "Env" => environment(asked, value, &image.env),
            "Labels" => labels(asked.and_then(Value::as_object).unwrap_or(&none), value),
            _ if IMAGES_OWN.contains(&field.as_str()) => true,
            _ => asked.map_or_else(|| is_empty(value), |asked| same(asked, value)),
        };
        check(field, holds);
    }
    missing(&asked_config, &found_config).for_each(|field| check(field, false));
    drift
}

/// The mount that was asked for.
fn is_bind(found: &MountPoint, asked: &Mount) -> bool {
    found.typ.as_deref() == Some("bind")
        && found.source == asked.source
        && found.destination == asked.target
        && found.rw == Some(asked.read_only != Some(true))
        && found.propagation.as_deref().is_none_or(|way| matches!(way, "" | "private" | "rprivate"))
}

fn object(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// What was asked for and does not come back. An empty list may stay away; a no may not.
fn missing<'a>(asked: &'a Map<String, Value>, found: &'a Map<String, Value>) -> impl Iterator<Item = &'a str> {
    let nothing = |value: &Value| is_empty(value) && !matches!(value, Value::Bool(_) | Value::Number(_));
    asked.iter().filter(move |(field, value)| !nothing(value) && !found.contains_key(*field)).map(|(field, _)| &**field)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Equal, where an empty part may be left out, as in `{ "Type": "none", "Config": {} }`.
fn same(asked: &Value, found: &Value) -> bool {
    match (asked, found) {
        (Value::Object(asked), Value::Object(found)) => {
            found.iter().all(|(field, value)| match asked.get(field) {
                Some(asked) => same(asked, value),
                None => is_empty(value),
            }) && missing(asked, found).next().is_none()
        }
        (Value::Array(asked), Value::Array(found)) => {
            asked.len() == found.len() && asked.iter().zip(found).all(|(asked, found)| same(asked, found))
        }
        _ => asked == found || (is_empty(asked) && is_empty(found)),
    }
}

/// What was asked for, and nothing else but what the image brings for names that were not asked for.
fn environment(asked: Option<&Value>, found: &Value, image: &[String]) -> bool {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let asked = asked.map(list).unwrap_or_default();
    let found = list(found);
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let named = |entry: &str| asked.iter().any(|other| name(other) == name(entry));
    asked.iter().all(|entry| found.contains(entry))
        && found.iter().all(|entry| asked.contains(entry) || (image.contains(entry) && !named(entry)))
}

/// An image's labels may stand beside ours; they say nothing.
fn labels(asked: &Map<String, Value>, found: &Value) -> bool {
    asked.iter().all(|(name, value)| found.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Bind, Shape, container};
    use bollard::models::{ContainerConfig, HostConfig};
    use serde_json::json;

    const ID: &str = "c1";

    fn image() -> Image {
        Image { id: "sha256:1".into(), env: vec!["PATH=/evil".into(), "LANGUAGE=de".into()], has_runner: true }
    }

    /// What an engine that does as it is told says of the container.
    fn honest() -> Value {
        let asked = container(&image(), "i1", "e1", &Shape::default());
        let mut host = object(&asked.host_config);
        for (field, value) in [
            ("ConsoleSize", json!([0, 0])),
            ("ShmSize", json!(64 << 20)),
            ("Runtime", json!("runc")),
            ("RestartPolicy", json!({ "Name": "", "MaximumRetryCount": 0 })),
            ("CapAdd", Value::Null),
            ("PidMode", json!("")),
            ("CpuShares", json!(0)),
        ] {
            host.insert(field.to_owned(), value);
        }
        let mut config = object(&asked);
        config.remove("HostConfig");
        config["Env"].as_array_mut().unwrap().push(json!("LANGUAGE=de"));
        json!({ "Id": ID, "Image": image().id, "Path": asked.cmd.as_ref().unwrap()[0], "Args": asked.cmd.unwrap()[1..],
            "HostConfig": host, "Config": config, "Mounts": [], "State": { "Pid": 0 } })
    }

    fn judge(found: &Value) -> Vec<String> {
        drift(
            &serde_json::from_value(found.clone()).unwrap(),
            ID,
            &container(&image(), "i1", "e1", &Shape::default()),
            &image(),
        )
    }

    #[test]
    fn container_as_asked_for_shows_no_drift() {
        assert!(judge(&honest()).is_empty(), "{:?}", judge(&honest()));
    }

    #[test]
    fn each_field_that_comes_back_as_another_is_found() {
        let asked = container(&image(), "i1", "e1", &Shape::default());
        let host: Vec<String> = object(&asked.host_config).keys().cloned().collect();
        assert!(host.len() > 15);
        for field in host {
            let mut found = honest();
            found["HostConfig"].as_object_mut().unwrap().remove(&field);
            assert!(judge(&found).contains(&field), "{field} left out");
        }
        for field in object(&asked).keys().filter(|field| !matches!(field.as_str(), "HostConfig" | "Entrypoint")) {
            let mut found = honest();
            found["Config"].as_object_mut().unwrap().remove(field);
            assert!(judge(&found).contains(field), "{field} left out");
        }
    }

    #[test]
    fn each_field_that_nobody_asked_for_is_found() {
        let all = serde_json::to_value(HostConfig::default()).unwrap();
        assert!(all.as_object().unwrap().is_empty(), "the model leaves out what is not set");
        for (field, value) in [
            ("Privileged", json!(true)),
            ("CapAdd", json!(["SYS_ADMIN"])),
            ("CapDrop", json!(["NET_RAW"])),
            ("SecurityOpt", json!(["no-new-privileges:true", "seccomp=unconfined"])),
            ("Binds", json!(["/:/host"])),
            ("Mounts", json!([{ "Type": "bind", "Source": "/", "Target": "/host" }])),
            ("VolumesFrom", json!(["other"])),
            (
                "Devices",
                json!([{ "PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda", "CgroupPermissions": "rwm" }]),
            ),
            ("DeviceRequests", json!([{ "Driver": "nvidia", "Count": -1 }])),
            ("DeviceCgroupRules", json!(["a *:* rwm"])),
            ("NetworkMode", json!("host")),
            ("PidMode", json!("host")),
            ("IpcMode", json!("host")),
            ("UTSMode", json!("host")),
            ("UsernsMode", json!("host")),
            ("CgroupnsMode", json!("host")),
            ("CgroupParent", json!("/")),
            ("GroupAdd", json!(["0"])),
            ("Sysctls", json!({ "kernel.core_pattern": "|/x" })),
            ("Runtime", json!("evil")),
            ("RestartPolicy", json!({ "Name": "always" })),
            ("ReadonlyRootfs", json!(false)),
            ("Memory", json!(0)),
            ("MemorySwap", json!(-1)),
            ("NanoCpus", json!(0)),
            ("PidsLimit", json!(-1)),
            ("OomKillDisable", json!(true)),
            ("Ulimits", json!([])),
            ("Tmpfs", json!({ "/tmp": "rw,exec" })),
            ("MaskedPaths", json!([])),
            ("ReadonlyPaths", json!([])),
            ("ExtraHosts", json!(["a:1.2.3.4"])),
            ("Dns", json!(["1.2.3.4"])),
            ("PortBindings", json!({ "1/tcp": [{ "HostPort": "1" }] })),
            ("PublishAllPorts", json!(true)),
            ("LogConfig", json!({ "Type": "syslog" })),
            ("VolumeDriver", json!("x")),
            ("Links", json!(["x"])),
            ("Annotations", json!({ "a": "b" })),
        ] {
            let mut found = honest();
            found["HostConfig"][field] = value;
            assert_eq!(judge(&found), [field]);
        }
        for (field, value) in [
            ("User", json!("0")),
            ("Cmd", json!(["sh"])),
            ("Entrypoint", json!(["/evil"])),
            ("Image", json!("other")),
            ("Volumes", json!({ "/v": {} })),
            ("NetworkDisabled", json!(false)),
            ("Tty", json!(true)),
            ("WorkingDir", json!("/proc/self/fd/7")),
            ("Labels", json!({ "moltbot.instance": "another" })),
            ("Healthcheck", json!({ "Test": ["CMD", "/evil"] })),
            ("Env", json!(["LD_PRELOAD=/evil"])),
        ] {
            let mut found = honest();
            found["Config"][field] = value;
            assert_eq!(judge(&found), [field]);
        }
        for (field, value) in [
            ("Id", json!("c2")),
            ("Image", json!("sha256:2")),
            ("Path", json!("/evil")),
            ("Args", json!(["-x"])),
            ("ExecIDs", json!(["e"])),
            ("State", json!({ "Pid": 1 })),
            ("AppArmorProfile", json!("unconfined")),
            ("Mounts", json!([{ "Type": "bind", "Source": "/", "Destination": "/host" }])),
        ] {
            let mut found = honest();
            found[field] = value;
            assert_eq!(judge(&found), [field]);
        }
    }

    #[test]
    fn image_adds_to_the_environment_only_what_was_not_asked_for() {
        let mut found = honest();
        found["Config"]["Env"].as_array_mut().unwrap().push(json!("PATH=/evil"));
        assert_eq!(judge(&found), ["Env"]);
    }

    #[test]
    fn answer_without_its_parts_is_drift_and_no_panic() {
        let empty = ContainerInspectResponse::default();
        let found = drift(&empty, ID, &container(&image(), "i1", "e1", &Shape::default()), &image());
        for field in ["Id", "Image", "Path", "CapDrop", "SecurityOpt", "User"] {
            assert!(found.iter().any(|name| name == field), "{field}: {found:?}");
        }
        let half = ContainerInspectResponse {
            config: Some(ContainerConfig::default()),
            host_config: Some(HostConfig::default()),
            ..empty
        };
        assert!(drift(&half, ID, &container(&image(), "i1", "e1", &Shape::default()), &image()).len() > 15);
    }

    #[test]
    fn workspace_that_was_asked_for_is_the_only_one_and_as_it_was_asked_for() {
        let bind = Bind { source: "/state/workspaces/0".into(), uid: 7, gid: 8, writable: false };
        let asked = container(&image(), "i1", "e1", &Shape { bind: Some(bind), ..Shape::default() });
        let mut found = honest();
        let mut host = object(&asked.host_config);
        host.insert("Runtime".to_owned(), json!("runc"));
        found["HostConfig"] = json!(host);
        found["Config"]["User"] = json!("7:8");
        let mount = json!({ "Type": "bind", "Source": "/state/workspaces/0", "Destination": "/agent", "Mode": "", "RW": false,
            "Propagation": "rprivate" });
        found["Mounts"] = json!([mount]);
        let judge = |found: &Value| drift(&serde_json::from_value(found.clone()).unwrap(), ID, &asked, &image());
        assert!(judge(&found).is_empty(), "{:?}", judge(&found));
        for (field, value) in [
            ("Source", json!("/")),
            ("Destination", json!("/workspace")),
            ("RW", json!(true)),
            ("Type", json!("volume")),
            ("Propagation", json!("rshared")),
        ] {
            let mut other = found.clone();
            other["Mounts"][0][field] = value;
            assert_eq!(judge(&other), ["Mounts"], "{field}");
        }
        for mounts in [json!([]), json!([mount, mount])] {
            let mut other = found.clone();
            other["Mounts"] = mounts;
            assert_eq!(judge(&other), ["Mounts"]);
        }
    }

    #[test]
    fn runtime_that_was_named_is_the_one_that_comes_back() {
        let shape = Shape { runtime: Some(crate::modes::Runtime::Runsc), ..Shape::default() };
        let asked = container(&image(), "i1", "e1", &shape);
        let judge = |name: &str| {
            let mut found = honest();
            found["HostConfig"]["Runtime"] = json!(name);
            drift(&serde_json::from_value(found).unwrap(), ID, &asked, &image())
        };
        assert!(judge("runsc").is_empty());
        for other in ["runc", "", "crun"] {
            assert_eq!(judge(other), ["Runtime"], "{other}");
        }
    }
}
