//! Watching containers: whether what sandboxd asked for is what runs, and whether anything tries to leave.
//!
//! Two tasks. One hears the engine's events; one looks every second, and twenty times a second where something was suspicious,
//! at every process in a container, and now and then, at times nobody can foresee, at the container itself. Both only see and
//! tell; what is done about it is `serve::reacting`. Decisions are in `table`, `own`, `status` and `text`, which are pure.
//!
//! Hostile: the engine's answers and events as far as containers or other users of the engine shape them. It rests on the
//! kernel and on an engine that does not lie about other people's acts; one that does is host compromise anyway.

pub mod own;
pub mod processes;
pub mod status;
pub mod table;
pub mod text;

use crate::drift::drift;
use crate::runs::lock;
use crate::spec::Image;
use bollard::Docker;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, EventMessage};
use bollard::query_parameters::{EventsOptions, KillContainerOptions, RemoveContainerOptions};
use futures_util::StreamExt;
use futures_util::future::join_all;
use own::{Act, Kind, Own, Whose};
use processes::{Found, Processes};
use proto::ids::SessionKey;
use sha2::{Digest, Sha256};
use status::Process;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use table::Signal;
use text::Searcher;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

/// How often every process is looked at.
const CALM: Duration = Duration::from_secs(1);
/// How often where something was suspicious.
const ALARMED: Duration = Duration::from_millis(50);
/// How long it stays suspicious.
pub const SUSPICION: Duration = Duration::from_secs(60);
/// One look in so many, by chance, is also one at the container itself.
const ONE_IN: u8 = 10;
/// How long the engine may take for a look.
const ANSWER: Duration = Duration::from_secs(2);
/// How long it may take to have a container stand still.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a container may take to have its walls up once it was started, and how often it is looked at meanwhile.
const SETTLED: Duration = Duration::from_secs(10);
const SETTLING: Duration = Duration::from_millis(2);
/// Pause before the engine's events are asked for again.
const AGAIN: Duration = Duration::from_millis(500);
/// A program of sandboxd's own is being put into its sandbox for so long at most: until then the engine's helper stands in the
/// container's control group with the engine's rights.
const ENTERING: Duration = Duration::from_secs(20);
/// A process with those rights that stays for so long is no helper.
const LINGERING: Duration = Duration::from_secs(5);

/// What was seen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// In which container.
    pub container: String,
    /// Whose it is; none where it is nobody's yet.
    pub session: Option<SessionKey>,
    /// What.
    pub signal: Signal,
    /// In words.
    pub detail: String,
    /// The foreign exec, where it is one.
    pub exec: Option<String>,
}

#[derive(Clone, Debug)]
struct Watched {
    session: Option<SessionKey>,
    asked: Arc<ContainerCreateBody>,
    since: Instant,
    pid: u32,
    first: Option<Process>,
    mounts: Option<[u8; 32]>,
    /// Something was suspicious until then.
    alarmed: Option<Instant>,
    /// The last exec of sandboxd's own.
    entering: Option<Instant>,
    /// Processes that may be the engine's helper on its way to it, and since when.
    helpers: BTreeMap<u32, Instant>,
    /// Its limit of processes was reached, and it has not come down since.
    crowded: bool,
    frozen: bool,
    started: bool,
}

#[derive(Debug, Default)]
struct State {
    own: Own,
    containers: BTreeMap<String, Watched>,
    /// Why the engine's events are not seen; none where its own act was.
    deaf: Option<String>,
    heard: bool,
}

/// The watch over one engine's containers.
#[derive(Debug)]
pub struct Watch {
    searcher: Searcher,
    docker: Docker,
    image: Image,
    instance: String,
    processes: OnceLock<Arc<Processes>>,
    findings: OnceLock<mpsc::Sender<Finding>>,
    state: Mutex<State>,
    changed: Notify,
}

impl Watch {
    /// A watch that nobody looks through yet. `canary` is a word on a label of every container: it stands in the engine's
    /// files and answers, and nothing in a container can know it.
    #[must_use]
    pub fn new(docker: Docker, image: Image, instance: &str, canary: &str) -> Arc<Self> {
        Arc::new(Self {
            searcher: Searcher::new(Some(canary)),
            docker,
            image,
            instance: instance.to_owned(),
            processes: OnceLock::new(),
            findings: OnceLock::new(),
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Begins to watch; what is seen goes to `findings`.
    pub fn begin(self: &Arc<Self>, findings: mpsc::Sender<Finding>, processes: Arc<Processes>) {
        if self.findings.set(findings).is_ok() && self.processes.set(processes).is_ok() {
            tokio::spawn(Arc::clone(self).listen());
            tokio::spawn(Arc::clone(self).look());
        }
    }

    /// A container was made and not touched yet. It will be attached to and started once.
    pub fn made(&self, container: &str, asked: &ContainerCreateBody) {
        let mut state = lock(&self.state);
        state.own.made(container);
        state.own.announce(container, Kind::Attach);
        state.own.announce(container, Kind::Start);
        let watched = Watched {
            session: None,
            asked: Arc::new(asked.clone()),
            since: Instant::now(),
            pid: 0,
            first: None,
            mounts: None,
            alarmed: None,
            entering: None,
            helpers: BTreeMap::new(),
            crowded: false,
            frozen: false,
            started: false,
        };
        state.containers.insert(container.to_owned(), watched);
    }

    /// It was started: what its first process is, and what is mounted, it stays.
    pub async fn started(&self, container: &str) {
        let Some(processes) = self.processes.get() else { return };
        let found = timeout(ANSWER, self.docker.inspect_container(container, None)).await;
        let pid = found.ok().and_then(Result::ok).and_then(|found| found.state).and_then(|state| state.pid);
        let pid = pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
        // The engine says that it was started a moment before the last of its walls is up.
        let until = Instant::now().checked_add(SETTLED);
        let (first, wrong) = loop {
            let first = processes.process(pid);
            let wrong = first.as_ref().map(status::wrong_first).unwrap_or_default();
            if wrong.is_empty() || until.is_none_or(|until| Instant::now() > until) {
                break (first, wrong);
            }
            sleep(SETTLING).await;
        };
        let mounts = processes.mounts(pid).map(|text| digest(text.as_bytes()));
        if let Some(watched) = lock(&self.state).containers.get_mut(container) {
            (watched.pid, watched.first, watched.mounts, watched.started) = (pid, first, mounts, true);
        }
        if !wrong.is_empty() {
            self.tell(container, Signal::Credentials, format!("its first process has {}", wrong.join(", "))).await;
        }
        self.changed.notify_one();
    }

    /// Whose it is from now on.
    pub fn belongs(&self, container: &str, session: &SessionKey) {
        if let Some(watched) = lock(&self.state).containers.get_mut(container) {
            watched.session = Some(session.clone());
        }
    }

    /// It is ended, or about to be.
    pub fn forget(&self, container: &str) {
        let mut state = lock(&self.state);
        state.own.forget(container);
        state.containers.remove(container);
    }

    /// An exec is about to be asked for.
    pub fn enters(&self, container: &str) {
        let mut state = lock(&self.state);
        state.own.announce_exec(container);
        if let Some(watched) = state.containers.get_mut(container) {
            watched.entering = Some(Instant::now());
        }
    }

    /// The engine's answer to that: its number, or none where it failed.
    pub async fn entered(&self, container: &str, exec: Option<&str>) {
        let foreign = lock(&self.state).own.answered(container, exec);
        for exec in foreign {
            self.tell_of_exec(container, exec).await;
        }
    }

    /// Looks at a conversation's sandboxes more often for a while.
    pub fn alarm(&self, session: &SessionKey) {
        let until = Instant::now().checked_add(SUSPICION);
        for watched in lock(&self.state).containers.values_mut().filter(|it| it.session.as_ref() == Some(session)) {
            watched.alarmed = until;
        }
        self.changed.notify_one();
    }

    /// It stands still: there is nothing more to see in it.
    pub fn frozen(&self, container: &str) {
        if let Some(watched) = lock(&self.state).containers.get_mut(container) {
            watched.frozen = true;
        }
    }

    /// What looks through output.
    #[must_use]
    pub const fn searcher(&self) -> &Searcher {
        &self.searcher
    }

    /// The conversation's container.
    #[must_use]
    pub fn of_session(&self, session: &SessionKey) -> Option<String> {
        let state = lock(&self.state);
        state.containers.iter().find(|(_, it)| it.session.as_ref() == Some(session)).map(|(id, _)| id.clone())
    }

    /// Has a container stand still; how long that took.
    ///
    /// # Errors
    /// What the engine says. What cannot stand still is ended.
    pub async fn freeze(&self, container: &str) -> Result<Duration, String> {
        let begun = Instant::now();
        let paused = timeout(PAUSE, self.docker.pause_container(container)).await;
        self.frozen(container);
        let why = match paused {
            Ok(Ok(())) => return Ok(begun.elapsed()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the engine does not answer".to_owned(),
        };
        let state = timeout(ANSWER, self.docker.inspect_container(container, None)).await;
        let state = state.ok().and_then(Result::ok).and_then(|found| found.state);
        // Another may have paused it, or it may be gone.
        if state.is_none_or(|state| state.paused == Some(true) || state.running != Some(true)) {
            return Ok(begun.elapsed());
        }
        let options = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
        let _ = timeout(ANSWER, self.docker.remove_container(container, Some(options))).await;
        Err(why)
    }

    /// Ends everything in a container at once. For one that somebody is just putting a process into: such a process stands in
    /// the container's control group with the engine's locks, and where it is frozen, every call about the container hangs.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn end(&self, container: &str) -> Result<Duration, String> {
        let begun = Instant::now();
        let options = KillContainerOptions { signal: "SIGKILL".to_owned() };
        let killed = timeout(PAUSE, self.docker.kill_container(container, Some(options))).await;
        self.frozen(container);
        match killed {
            Ok(Ok(())) => Ok(begun.elapsed()),
            // It is gone, or just going.
            Ok(Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. })) => {
                Ok(begun.elapsed())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the engine does not answer".to_owned()),
        }
    }

    /// Has every container stand still, all at once.
    ///
    /// # Errors
    /// As [`Watch::freeze`], for any of them.
    pub async fn freeze_all(&self) -> Result<Duration, String> {
        let begun = Instant::now();
        let all: Vec<String> = lock(&self.state).containers.keys().cloned().collect();
        let stood: Result<Vec<Duration>, String> =
            join_all(all.iter().map(|id| self.freeze(id))).await.into_iter().collect();
        stood.map(|_| begun.elapsed())
    }

    /// Containers, whose they are, and since when.
    #[must_use]
    pub fn list(&self) -> Vec<(String, Option<SessionKey>, Duration)> {
        let state = lock(&self.state);
        state.containers.iter().map(|(id, it)| (id.clone(), it.session.clone(), it.since.elapsed())).collect()
    }

    /// Why the engine's events are not seen; none where they are.
    #[must_use]
    pub fn deaf(&self) -> Option<String> {
        lock(&self.state).deaf.clone()
    }

    /// True once an event of sandboxd's own act was heard.
    #[must_use]
    pub fn heard(&self) -> bool {
        lock(&self.state).heard
    }

    async fn tell(&self, container: &str, signal: Signal, detail: String) {
        self.send(Finding { container: container.to_owned(), session: None, signal, detail, exec: None }).await;
    }

    async fn tell_of_exec(&self, container: &str, exec: String) {
        let detail = format!("exec {exec}, which nobody here asked for");
        let (container, signal) = (container.to_owned(), Signal::ForeignAction);
        self.send(Finding { container, session: None, signal, detail, exec: Some(exec) }).await;
    }

    async fn send(&self, finding: Finding) {
        let session = lock(&self.state).containers.get(&finding.container).and_then(|it| it.session.clone());
        if let Some(findings) = self.findings.get() {
            let _ = findings.send(Finding { session, ..finding }).await;
        }
    }
}

/// The engine's events.
impl Watch {
    async fn listen(self: Arc<Self>) {
        let (mut since, mut last) = (unix_seconds(), 0);
        loop {
            let again = last;
            let label = format!("{}={}", crate::spec::INSTANCE, self.instance);
            let filters =
                HashMap::from([("type".to_owned(), vec!["container".to_owned()]), ("label".to_owned(), vec![label])]);
            let options =
                EventsOptions { since: Some(since.to_string()), filters: Some(filters), ..EventsOptions::default() };
            let mut events = self.docker.events(Some(options));
            let why = loop {
                match events.next().await {
                    Some(Ok(event)) => {
                        // What was heard before the stream broke comes again.
                        let at = event.time_nano.unwrap_or(i64::MAX);
                        if at > again {
                            (since, last) = (event.time.unwrap_or(since), at);
                            self.on_event(&event).await;
                        }
                    }
                    Some(Err(error)) => break error.to_string(),
                    None => break "the engine ended the stream".to_owned(),
                }
            };
            lock(&self.state).deaf = Some(why);
            sleep(AGAIN).await;
        }
    }

    async fn on_event(&self, event: &EventMessage) {
        let Some((container, attributes)) = event.actor.as_ref().and_then(|it| Some((it.id.as_ref()?, &it.attributes)))
        else {
            return;
        };
        let action = event.action.as_deref().unwrap_or_default();
        if action == "oom" {
            return self
                .tell(container, Signal::MemoryLimit, "a process was ended for want of memory".to_owned())
                .await;
        }
        if action == "destroy" {
            return self.forget(container);
        }
        let exec = attributes.as_ref().and_then(|map| map.get("execID")).map(String::as_str);
        let whose = {
            let mut state = lock(&self.state);
            if state.own.knows(container) {
                (state.deaf, state.heard) = (None, true);
            }
            own::act(action, exec).map(|act| (state.own.on_event(container, &act), act))
        };
        match whose {
            Some((Whose::Foreign, Act::Exec(exec))) => self.tell_of_exec(container, exec).await,
            Some((Whose::Foreign, Act::Other(kind))) => {
                let detail = format!("{}, which nobody here asked for", kind.name());
                self.tell(container, Signal::ForeignAction, detail).await;
            }
            Some((Whose::Own | Whose::Unclear, _)) | None => {}
        }
    }
}

/// The looks.
impl Watch {
    async fn look(self: Arc<Self>) {
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
            self.look_at_processes().await;
            for container in self.chosen() {
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

    async fn look_at_processes(&self) {
        let Some(processes) = self.processes.get() else { return };
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
            if let Some((_, detail)) = wrong.into_iter().find(|(pid, _)| !is_helper(pid)) {
                self.tell(id, Signal::Credentials, detail).await;
            }
            self.count(id, watched, of_it().count()).await;
            let mounts = processes.mounts(watched.pid).map(|text| digest(text.as_bytes()));
            // One that is just ending has none.
            if watched.mounts.is_some() && mounts.is_some() && mounts != watched.mounts {
                self.tell(id, Signal::Mounts, "what is mounted is not what was".to_owned()).await;
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
    fn drift(&self, found: &ContainerInspectResponse, id: &str, watched: &Watched) -> Vec<String> {
        let mut found = drift(found, id, &watched.asked, &self.image);
        found.retain(|field| field != "State" && field != "ExecIDs");
        found
    }
}

/// What is kept of a container that stands still.
impl Watch {
    /// Pieces of evidence, each with its name. The engine may take so long for each of its own.
    pub async fn evidence(&self, id: &str, exec: Option<&str>) -> Vec<(&'static str, String)> {
        let mut pieces = Vec::new();
        let wait = Duration::from_millis(500);
        if let Some(processes) = self.processes.get() {
            let found = processes.of_containers(&[id.to_owned()]).unwrap_or_default();
            let lines: Vec<String> = found.iter().map(line).collect();
            pieces.push(("processes", lines.join("\n")));
            let pid = lock(&self.state).containers.get(id).map(|watched| watched.pid).unwrap_or_default();
            pieces.extend(processes.mounts(pid).map(|text| ("mounts", text)));
        }
        if let Some(exec) = exec
            && let Ok(Ok(found)) = timeout(wait, self.docker.inspect_exec(exec)).await
        {
            pieces.push(("exec", serde_json::to_string(&found).unwrap_or_default()));
        }
        if let Ok(Ok(found)) = timeout(wait, self.docker.inspect_container(id, None)).await {
            let watched = lock(&self.state).containers.get(id).cloned();
            let drift = watched.map(|watched| self.drift(&found, id, &watched)).unwrap_or_default();
            pieces.push(("drift", drift.join("\n")));
            pieces.push(("inspect", serde_json::to_string(&found).unwrap_or_default()));
        }
        if let Ok(Ok(changes)) = timeout(wait, self.docker.container_changes(id)).await {
            let lines: Vec<String> = changes.unwrap_or_default().into_iter().map(|change| change.path).collect();
            pieces.push(("changed-files", lines.join("\n")));
        }
        pieces
    }
}

fn line(found: &Found) -> String {
    let Process { name, uids, gids, capabilities, no_new_privs, seccomp, parent, .. } = &found.process;
    let pid = found.pid;
    format!(
        "{pid} parent {parent} uids {uids:?} gids {gids:?} capabilities {capabilities:x} no_new_privs {} seccomp {seccomp} {name:?}",
        u8::from(*no_new_privs)
    )
}

/// In what a process is not as its container's first; none where it is.
fn wrong(found: &Found, watched: &Watched) -> Option<(u32, String)> {
    let differs = status::differs(&found.process, watched.first.as_ref()?);
    let detail = || format!("process {} ({:?}) has {}", found.pid, found.process.name, differs.join(", "));
    (!differs.is_empty()).then(|| (found.pid, detail()))
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

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> Watched {
        let first = Process {
            uids: vec![65_534; 4],
            gids: vec![65_534; 4],
            no_new_privs: true,
            seccomp: 2,
            ..Process::default()
        };
        Watched {
            session: None,
            asked: Arc::default(),
            since: Instant::now(),
            pid: 1,
            first: Some(first),
            mounts: None,
            alarmed: None,
            entering: None,
            helpers: BTreeMap::new(),
            crowded: false,
            frozen: false,
            started: true,
        }
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
