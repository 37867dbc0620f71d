//! The launcher at work: many runs at once, each a sandbox of its own; a run ends by itself, by its time, or because
//! sandboxd no longer wants it. The tier is found once, by really making a sandbox, and is never lowered afterwards.

mod bounds;
mod run;

use bounds::{Free, Measure};
use confine::jail::{End, Jail, JailError, JailSpec, Jailer, Program, Tier};
use confine::startup::{Control, Sealed, StartError};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::{Channel, ChannelError, Incoming, decode_incoming, refusal_frame, reply_frame};
use proto::control::{FromRole, ToRole};
use proto::edge::{Edge, Refusal, SandboxdLauncher};
use proto::exit::Exit;
use proto::ids::RequestId;
use proto::sandbox::{Backend, Bounds, LaunchReply, LaunchRequest, WorkspaceName};
use proto::topology::{EdgeId, Side};
use run::{answer_of, beneath, input};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fstat, mkdirat, open, openat};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a probe's sandbox may take.
const PROBE: Duration = Duration::from_secs(5);
/// Packets of the edge in one round, so that it keeps neither broker nor an ended run waiting.
const TURN: usize = 16;

struct Run {
    id: RequestId,
    jail: Jail,
    until: Instant,
    timed_out: bool,
    aborted: bool,
    measure: Measure,
    /// Why it was ended by its bounds.
    over: Option<Refusal>,
}

struct Launcher<'l> {
    control: &'l Control,
    jailer: &'l Jailer,
    workspaces: &'l OwnedFd,
    edge: Option<Channel>,
    tier: Option<(Option<Tier>, String)>,
    runs: Vec<Run>,
    /// When the runs are measured next.
    look: Instant,
    /// How often they were.
    looks: u32,
    /// Why nothing runs, while that is so.
    frozen: Option<String>,
    /// How many runs were killed by each freeze that was not answered yet.
    freezing: Vec<usize>,
}

/// Serves until broker says stop, or is gone.
///
/// # Errors
/// [`StartError`] where the machine fails.
pub fn serve(_walls: &Sealed, control: &Control, jailer: &Jailer, workspaces: &OwnedFd) -> Result<Exit, StartError> {
    let mut launcher = Launcher {
        control,
        jailer,
        workspaces,
        edge: None,
        tier: None,
        runs: Vec::new(),
        look: Instant::now(),
        looks: 0,
        frozen: None,
        freezing: Vec::new(),
    };
    launcher.tell(&FromRole::Ready)?;
    loop {
        if let Some(exit) = launcher.on_control()? {
            return Ok(exit);
        }
        launcher.on_edge()?;
        launcher.measure();
        launcher.reap()?;
        launcher.wait()?;
    }
}

impl Launcher<'_> {
    fn tell(&self, message: &FromRole) -> Result<(), StartError> {
        self.control.send(message).map_err(|error| StartError::internal(format!("control channel: {error}")))
    }

    fn wait(&self) -> Result<(), StartError> {
        let now = Instant::now();
        let next =
            self.runs.iter().filter(|run| !run.timed_out).map(|run| run.until.saturating_duration_since(now)).min();
        let look = (!self.runs.is_empty()).then(|| self.look.saturating_duration_since(now));
        let timeout = next.into_iter().chain(look).min().map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        let mut fds = vec![PollFd::new(self.control, PollFlags::IN)];
        fds.extend(self.edge.iter().map(|edge| PollFd::new(edge, PollFlags::IN)));
        fds.extend(self.runs.iter().map(|run| PollFd::new(&run.jail, PollFlags::IN)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(StartError::internal(format!("poll: {errno}"))),
        }
    }

    fn on_control(&mut self) -> Result<Option<Exit>, StartError> {
        loop {
            match self.control.recv() {
                Ok((ToRole::Grant { edge: EdgeId::SandboxdLauncher, side: Side::Server, .. }, fds)) => {
                    // A new sandboxd knows nothing of the old one's runs.
                    self.runs.clear();
                    self.edge = fds.into_iter().next().map(Channel::from_fd);
                }
                Ok((ToRole::Ping(number), _)) => self.tell(&FromRole::Pong(number))?,
                Ok((ToRole::Admin(number, _), _)) => {
                    let refusal = Refusal::new("launcher.no_such_verb", "the launcher has no operator's verb");
                    self.tell(&FromRole::Admin(number, Err(refusal)))?;
                }
                Ok((ToRole::Freeze { why }, _)) => {
                    self.frozen = Some(why.to_string());
                    self.runs.iter_mut().for_each(|run| {
                        run.aborted = true;
                        run.jail.kill();
                    });
                    self.freezing.push(self.runs.len());
                }
                Ok((ToRole::Thaw, _)) => self.frozen = None,
                Ok((ToRole::Drain, _)) => self.tell(&FromRole::Drained)?,
                Ok((ToRole::Stop, _)) => return Ok(Some(Exit::Ok)),
                Ok((ToRole::Grant { .. } | ToRole::Configure { .. } | ToRole::Attested | ToRole::Quarantine(_), _)) => {
                    return Err(StartError::internal("broker's word is not one for the launcher"));
                }
                Err(ChannelError::WouldBlock) => return Ok(None),
                Err(ChannelError::Closed) => return Ok(Some(Exit::BrokerGone)),
                Err(error) => return Err(StartError::internal(format!("control channel: {error}"))),
            }
        }
    }

    fn on_edge(&mut self) -> Result<(), StartError> {
        for _ in 0..TURN {
            let Some(edge) = &self.edge else { return Ok(()) };
            let (max, fds) = (SandboxdLauncher::MAX_REQUEST, SandboxdLauncher::REQUEST_FDS);
            match edge.recv(max, fds).and_then(decode_incoming::<SandboxdLauncher>) {
                Ok(Incoming::Request { id, .. }) if self.runs.iter().any(|run| run.id == id) => {
                    return self.lose_edge(&ChannelError::Violation("an id that is in flight"));
                }
                Ok(Incoming::Request { .. }) if self.runs.len() >= SandboxdLauncher::WINDOW => {
                    return self.lose_edge(&ChannelError::Violation("more requests than the window"));
                }
                Ok(Incoming::Request { id, request, fds, .. }) => self.on_request(id, &request, fds)?,
                Ok(Incoming::Cancel { id }) => {
                    for run in self.runs.iter_mut().filter(|run| run.id == id) {
                        run.aborted = true;
                        run.jail.kill();
                    }
                }
                Ok(Incoming::Credit { .. }) => {
                    return self.lose_edge(&ChannelError::Violation("credit on an edge that does not stream"));
                }
                Err(ChannelError::WouldBlock) => return Ok(()),
                Err(error) => return self.lose_edge(&error),
            }
        }
        Ok(())
    }

    fn lose_edge(&mut self, error: &ChannelError) -> Result<(), StartError> {
        self.edge = None;
        self.runs.clear();
        if error.is_violation() {
            let detail = BoundedStr::truncated(&error.to_string());
            self.tell(&FromRole::Violated { edge: EdgeId::SandboxdLauncher, detail })?;
        }
        Ok(())
    }

    fn answer(&mut self, id: RequestId, answer: Result<LaunchReply, Refusal>) -> Result<(), StartError> {
        let packet = match &answer {
            Ok(reply) => reply_frame::<SandboxdLauncher>(id, reply),
            Err(refusal) => refusal_frame::<SandboxdLauncher>(id, refusal),
        };
        let (Ok(packet), Some(edge)) = (packet, &self.edge) else { return Ok(()) };
        match edge.send(&packet, &[]) {
            Ok(()) => Ok(()),
            Err(ChannelError::WouldBlock) => {
                self.lose_edge(&ChannelError::Violation("a peer that does not read its answers"))
            }
            Err(error) => self.lose_edge(&error),
        }
    }

    fn on_request(&mut self, id: RequestId, request: &LaunchRequest, fds: Vec<OwnedFd>) -> Result<(), StartError> {
        let outcome = match request {
            LaunchRequest::Probe => {
                let (tier, detail) = self.tier();
                let backend = match tier {
                    Some(Tier::N1) => Backend::NativeN1,
                    Some(Tier::N2) => Backend::NativeN2,
                    None => Backend::None,
                };
                Ok(Some(LaunchReply::Tier { backend, detail: BoundedStr::truncated(&detail) }))
            }
            LaunchRequest::Run { workspace, agent, words, cwd, timeout_s, bounds } => {
                let words: Vec<&str> = words.iter().map(|word| word.as_str()).collect();
                let given = (workspace, agent.as_ref());
                self.run(id, given, Program::Words(&words), cwd, (*timeout_s, *bounds), &fds).map(|()| None)
            }
            LaunchRequest::File { workspace, agent, verb, timeout_s, bounds } => match input(verb) {
                Ok(input) => {
                    let given = (workspace, agent.as_ref());
                    self.run(id, given, Program::Runner(input.as_fd()), "", (*timeout_s, *bounds), &fds).map(|()| None)
                }
                Err(errno) => Err(Refusal::new("sandbox.resource", &format!("memory for the verb: {errno}"))),
            },
            LaunchRequest::Prepare { workspace } => {
                let found = self.workspace(workspace).and_then(fstat);
                found
                    .map(|found| Some(LaunchReply::Prepared { uid: found.st_uid, gid: found.st_gid }))
                    .map_err(|errno| Refusal::new("sandbox.failed", &format!("the agent's workspace: {errno}")))
            }
        };
        match outcome {
            Ok(Some(reply)) => self.answer(id, Ok(reply)),
            Ok(None) => Ok(()),
            Err(refusal) => self.answer(id, Err(refusal)),
        }
    }

    fn run(
        &mut self,
        id: RequestId,
        (workspace, agent): (&WorkspaceName, Option<&WorkspaceName>),
        program: Program<'_>,
        cwd: &str,
        (timeout_s, bounds): (u32, Bounds),
        fds: &[OwnedFd],
    ) -> Result<(), Refusal> {
        if let Some(why) = &self.frozen {
            return Err(Refusal::lockdown(why));
        }
        let (Some(tier), detail) = self.tier() else {
            let (_, detail) = self.tier();
            return Err(Refusal::new("sandbox.unavailable", &detail));
        };
        let [stdout, stderr] = fds else { return Err(Refusal::new("launcher.descriptors", "two are needed")) };
        let failed = |what: &dyn std::fmt::Display| Refusal::new("sandbox.failed", &format!("{what} ({detail})"));
        let directory = |name| self.workspace(name).map_err(|errno| failed(&format!("workspace: {errno}")));
        let workspace = directory(workspace)?;
        // It is there, and no link.
        agent.map(directory).transpose()?;
        let agent = agent.map(|name| name.0.as_str());
        let cwd = beneath(cwd)?;
        let free = Free::of(self.workspaces).map_err(|errno| failed(&format!("room for files: {errno}")))?;
        bounds::may_begin(free, &bounds)?;
        if matches!(program, Program::Runner(_)) && !self.jailer.has_runner() {
            let why = "there is no moltbot-runner beside the launcher's program, so there are no file verbs";
            return Err(Refusal::new("sandbox.no_runner", why));
        }
        let (stdout, stderr) = (stdout.as_fd(), stderr.as_fd());
        let spec = JailSpec { tier, workspace: workspace.as_fd(), agent, program, cwd, stdout, stderr };
        let jail = self.jailer.spawn(&spec).map_err(|error| failed(&error))?;
        let until = Instant::now() + Duration::from_secs(u64::from(timeout_s));
        if self.runs.is_empty() {
            self.look = Instant::now() + bounds::LOOK;
        }
        let measure = Measure::new(workspace, free, bounds);
        self.runs.push(Run { id, jail, until, timed_out: false, aborted: false, measure, over: None });
        Ok(())
    }

    /// The session's directory. Its name is 32 hexadecimal digits, so it can lead nowhere else.
    fn workspace(&self, name: &WorkspaceName) -> Result<OwnedFd, Errno> {
        if name.0.len() != 32 || !name.0.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
            return Err(Errno::INVAL);
        }
        match mkdirat(self.workspaces, name.0.as_str(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        openat(self.workspaces, name.0.as_str(), OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    /// Ends what is beyond its bounds.
    fn measure(&mut self) {
        if self.runs.is_empty() || Instant::now() < self.look {
            return;
        }
        // What cannot be seen is taken for full: no command goes on unseen.
        let free = Free::of(self.workspaces).unwrap_or_default();
        self.looks = self.looks.wrapping_add(1);
        let processes = self.looks.is_multiple_of(bounds::PROCESSES).then(bounds::Processes::now);
        for run in self.runs.iter_mut().filter(|run| run.over.is_none()) {
            run.over = run.measure.over(free, processes.as_ref(), run.jail.pid());
            if run.over.is_some() {
                run.jail.kill();
            }
        }
        self.look = Instant::now() + bounds::LOOK;
    }

    fn reap(&mut self) -> Result<(), StartError> {
        let now = Instant::now();
        let mut ended = Vec::new();
        self.runs.retain_mut(|run| {
            if now >= run.until && !run.timed_out {
                run.timed_out = true;
                run.jail.kill();
            }
            match run.jail.try_wait() {
                None => true,
                Some(end) => {
                    ended.push((run.id, answer_of(&end, run.over.take(), run.timed_out, run.aborted)));
                    false
                }
            }
        });
        for (id, answer) in ended {
            self.answer(id, answer)?;
        }
        while self.runs.is_empty()
            && let Some(killed) = self.freezing.pop()
        {
            let detail = BoundedStr::truncated(&format!("{killed} sandboxes were killed"));
            self.tell(&FromRole::Frozen { sessions: BoundedVec::default(), detail })?;
        }
        Ok(())
    }

    fn tier(&mut self) -> (Option<Tier>, String) {
        if self.tier.is_none() {
            self.tier = Some(self.find_tier());
        }
        self.tier.clone().unwrap_or((None, String::new()))
    }

    fn find_tier(&self) -> (Option<Tier>, String) {
        let first = match self.probe(Tier::N1) {
            Ok(()) => {
                let detail = "namespaces, read-only root, no network, Landlock, seccomp, limits";
                return (Some(Tier::N1), detail.to_owned());
            }
            Err(error) => error,
        };
        match self.probe(Tier::N2) {
            Ok(()) => {
                (Some(Tier::N2), format!("lower tier: Landlock, seccomp, limits; no namespaces, because: {first}"))
            }
            Err(second) => {
                (None, format!("no native sandbox can be made here: with namespaces: {first}; without: {second}"))
            }
        }
    }

    /// Makes a sandbox and runs nothing in it.
    fn probe(&self, tier: Tier) -> Result<(), String> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let null = open("/dev/null", flags, Mode::empty()).map_err(|errno| format!("/dev/null: {errno}"))?;
        let name = WorkspaceName(BoundedStr::truncated("00000000000000000000000000000000"));
        let workspace = self.workspace(&name).map_err(|errno| format!("workspace: {errno}"))?;
        let spec = JailSpec {
            tier,
            workspace: workspace.as_fd(),
            agent: None,
            program: Program::Words(&["/bin/sh", "-c", "exit 0"]),
            cwd: "",
            stdout: null.as_fd(),
            stderr: null.as_fd(),
        };
        let mut jail = self.jailer.spawn(&spec).map_err(|error: JailError| error.to_string())?;
        let wait = Timespec { tv_sec: i64::try_from(PROBE.as_secs()).unwrap_or(5), tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(&jail, PollFlags::IN)], Some(&wait));
        match jail.try_wait() {
            Some(End::Exited(0)) => Ok(()),
            Some(End::NotMade(why)) => Err(why),
            Some(other) => Err(format!("its shell ended with {other:?}")),
            None => Err("it did not end in time".to_owned()),
        }
    }
}

/// The runner's program, which lies beside the launcher's. To be called before a wall keeps the caller from looking there.
#[must_use]
pub fn runner() -> Option<OwnedFd> {
    let path = std::env::current_exe().ok()?.with_file_name("moltbot-runner");
    open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()
}
