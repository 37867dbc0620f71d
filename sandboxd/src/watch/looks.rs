//! The looks: at every process in a container, and by chance at the container itself.

use super::processes::{Found, Processes};
use super::table::Signal;
use super::{ANSWER, Watch, Watched, digest, status};
use crate::drift::drift;
use crate::runs::lock;
use bollard::models::ContainerInspectResponse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How often every process is looked at.
const CALM: Duration = Duration::from_secs(1);
/// How often where something was suspicious.
const ALARMED: Duration = Duration::from_millis(50);
/// One look in so many, by chance, is also one at the container itself.
const ONE_IN: u8 = 10;
/// A program of sandboxd's own is being put into its sandbox for so long at most: until then the engine's helper stands in the
/// container's control group with the engine's rights.
const ENTERING: Duration = Duration::from_secs(20);
/// A process with those rights that stays for so long is no helper.
const LINGERING: Duration = Duration::from_secs(5);

impl Watch {
    pub(super) async fn look(self: Arc<Self>) {
        loop {
            let (any, alarmed) = {
                let state = lock(&self.state);
                let now = Instant::now();
                let mut watched = state.containers.values().filter(|it| !it.frozen);
                let alarmed = watched.clone().any(|it| it.alarmed.is_some_and(|until| until > now));
                (watched.next().is_some(), alarmed)
            };
            if !any {
                // No sandbox, no looks.
                self.changed.notified().await;
                continue;
            }
            let pause = if alarmed { ALARMED } else { CALM };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.changed.notified() => {}
            }
            let chosen = self.chosen();
            self.look_at_processes(&chosen).await;
            for container in chosen {
                self.look_at_container(&container).await;
            }
        }
    }

    /// Containers whose turn it is, by chance.
    fn chosen(&self) -> Vec<String> {
        let mut chance = [0u8; 64];
        let _ = rustix::rand::getrandom(&mut chance, rustix::rand::GetRandomFlags::empty());
        let state = lock(&self.state);
        let awake = state.containers.iter().filter(|(_, it)| !it.frozen && it.started);
        awake.zip(chance).filter(|(_, byte)| byte % ONE_IN == 0).map(|((id, _), _)| id.clone()).collect()
    }

    async fn look_at_processes(&self, chosen: &[String]) {
        let Some(processes) = self.processes() else { return };
        let watched: Vec<(String, Watched)> = {
            let state = lock(&self.state);
            let awake = state.containers.iter().filter(|(_, it)| !it.frozen && it.first.is_some());
            awake.map(|(id, it)| (id.clone(), it.clone())).collect()
        };
        let ids: Vec<String> = watched.iter().map(|(id, _)| id.clone()).collect();
        let Ok(found) = processes.of_containers(&ids) else { return };
        for (at, (id, watched)) in watched.iter().enumerate() {
            let of_it = || found.iter().filter(|found| found.container == at);
            let wrong: Vec<(u32, String)> = of_it().filter_map(|found| wrong(found, watched)).collect();
            let now = Instant::now();
            let is_helper = |pid: &u32| {
                let lingers = watched.helpers.get(pid).is_some_and(|since| now.duration_since(*since) > LINGERING);
                watched.entering.is_some_and(|since| since.elapsed() < ENTERING) && !lingers
            };
            let helpers: BTreeMap<u32, Instant> =
                wrong.iter().map(|(pid, _)| (*pid, watched.helpers.get(pid).copied().unwrap_or(now))).collect();
            if let Some(watched) = lock(&self.state).containers.get_mut(id) {
                watched.helpers = helpers;
            }
            // What has other rights is not besides asked where it is: that is one doubt and not two.
            let others: Vec<&Found> = of_it().filter(|it| !wrong.iter().any(|(pid, _)| *pid == it.pid)).collect();
            if let Some((_, detail)) = wrong.into_iter().find(|(pid, _)| !is_helper(pid)) {
                self.tell(id, Signal::Credentials, detail).await;
            }
            self.count(id, watched, of_it().count()).await;
            let mounts = processes.mounts(watched.pid).map(|text| digest(text.as_bytes()));
            // One that is just ending has none.
            if watched.mounts.is_some() && mounts.is_some() && mounts != watched.mounts {
                self.tell(id, Signal::Mounts, "what is mounted is not what was".to_owned()).await;
            } else if chosen.contains(id) || watched.alarmed.is_some_and(|until| until > now) {
                let elsewhere = others.into_iter().find_map(|found| elsewhere(processes, found, watched));
                if let Some(detail) = elsewhere {
                    self.tell(id, Signal::Namespaces, detail).await;
                }
            }
        }
    }

    async fn count(&self, id: &str, watched: &Watched, count: usize) {
        let limit = watched.asked.host_config.as_ref().and_then(|host| host.pids_limit).unwrap_or(i64::MAX);
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let crowded = if watched.crowded { count * 2 > limit } else { count + 1 >= limit };
        if let Some(watched) = lock(&self.state).containers.get_mut(id) {
            watched.crowded = crowded;
        }
        if crowded && !watched.crowded {
            self.tell(id, Signal::ProcessLimit, format!("{count} of {limit} processes")).await;
        }
    }

    async fn look_at_container(&self, id: &str) {
        let Some(watched) = lock(&self.state).containers.get(id).cloned() else { return };
        if let Ok(Ok(found)) = timeout(ANSWER, self.docker.inspect_container(id, None)).await {
            let drift = self.drift(&found, id, &watched);
            if !drift.is_empty() {
                self.tell(id, Signal::SpecDrift, drift.join(", ")).await;
            }
        }
        if let Ok(Ok(Some(changes))) = timeout(ANSWER, self.docker.container_changes(id)).await {
            let paths: Vec<String> =
                changes.into_iter().map(|change| change.path).filter(|path| !is_engines(path)).take(8).collect();
            if !paths.is_empty() {
                self.tell(id, Signal::WriteLayer, format!("{} changed on a read-only root", paths.join(", "))).await;
            }
        }
    }

    /// As when it was made, but that it runs now.
    pub(super) fn drift(&self, found: &ContainerInspectResponse, id: &str, watched: &Watched) -> Vec<String> {
        let mut found = drift(found, id, &watched.asked, &self.image);
        found.retain(|field| field != "State" && field != "ExecIDs");
        found
    }
}

/// In what a process is not as its container's first; none where it is.
fn wrong(found: &Found, watched: &Watched) -> Option<(u32, String)> {
    let differs = status::differs(&found.process, watched.first.as_ref()?);
    let detail = || format!("process {} ({:?}) has {}", found.pid, found.process.name, differs.join(", "));
    (!differs.is_empty()).then(|| (found.pid, detail()))
}

/// In which namespaces a process is that its container is not in; none where there is none, or it is gone.
fn elsewhere(processes: &Processes, found: &Found, watched: &Watched) -> Option<String> {
    let first = (watched.first.as_ref()?, watched.spaces.as_ref()?);
    let differs = status::elsewhere((&found.process, &processes.spaces(found.pid)?), first);
    // What was just ending when it was read is gone the second time; what is just being mounted is there in both.
    let again =
        (!differs.is_empty()).then(|| Some((processes.process(found.pid)?, processes.spaces(found.pid)?)))??;
    let differs = status::elsewhere((&again.0, &again.1), first);
    let detail =
        || format!("process {} ({:?}) is in another {} namespace", found.pid, again.0.name, differs.join(", "));
    (!differs.is_empty() && !again.0.is_zombie).then(detail)
}

/// What the engine itself puts into a container's write layer: its first process, and where things are mounted.
fn is_engines(path: &str) -> bool {
    matches!(
        path,
        "/sbin"
            | "/sbin/docker-init"
            | "/tmp"
            | "/workspace"
            | "/agent"
            | "/dev"
            | "/dev/init"
            | "/etc"
            | "/proc"
            | "/sys"
    ) || matches!(path, "/run" | "/dev/console" | "/dev/shm" | "/dev/pts" | "/dev/mqueue")
        || matches!(path, "/etc/hosts" | "/etc/hostname" | "/etc/resolv.conf" | "/etc/mtab")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::status::Process;
    use bollard::models::ContainerCreateBody;

    fn watched() -> Watched {
        let first = Some(found("first", 65_534).process);
        Watched { first, started: true, pid: 1, ..Watched::new(ContainerCreateBody::default()) }
    }

    fn found(name: &str, uid: u32) -> Found {
        let process = Process {
            name: name.to_owned(),
            uids: vec![uid; 4],
            gids: vec![65_534; 4],
            no_new_privs: true,
            seccomp: 2,
            ..Process::default()
        };
        Found { pid: 7, container: 0, process }
    }

    #[test]
    fn root_in_a_container_is_found_and_nobody_is_not() {
        assert!(wrong(&found("cat", 65_534), &watched()).is_none());
        assert!(
            wrong(&found("cat", 0), &watched())
                .is_some_and(|(pid, detail)| pid == 7 && detail.contains("[0, 0, 0, 0]"))
        );
    }

    #[test]
    fn engine_s_own_files_are_passed_over_and_no_others() {
        assert!(is_engines("/sbin/docker-init") && !is_engines("/sbin/other") && !is_engines("/etc/passwd"));
    }
}
