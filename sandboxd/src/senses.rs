//! Which signals this installation can see, each tried out, and why not where it cannot.

use crate::serve::Sandboxd;
use crate::serving::Serving;
use crate::watch::table::Signal;
use crate::watch::text::{self, Hit, Output};
use proto::bounded::BoundedStr;
use proto::watch::{Sense, Senses};

const CLOSED: &str =
    "closed instead: the filter gives out only memory that no program runs from; to see it needs the right to trace";
const AUDIT: &str = "needs CAP_AUDIT_READ, which no role has; the end of the command says the same";

impl Sandboxd {
    /// Every kind of signal.
    pub(crate) fn senses(&self, serving: &Serving) -> Senses {
        let all = Signal::ALL.into_iter().map(|signal| {
            let (number, name, class) = signal.facts();
            let tried = self.try_out(signal, serving);
            let on = tried.is_ok();
            let why = tried.unwrap_or_else(|why| why);
            Sense {
                signal: BoundedStr::truncated(number),
                name: BoundedStr::truncated(name),
                class,
                on,
                why: BoundedStr::truncated(&why),
            }
        });
        Senses::new(all.collect()).unwrap_or_default()
    }

    /// How it was found to work, or why it does not.
    fn try_out(&self, signal: Signal, serving: &Serving) -> Result<String, String> {
        let engine = match serving {
            Serving::Docker(docker, _) => Ok(docker.watch()),
            Serving::Native(..) => Err("no engine serves: every command has a native sandbox of its own".to_owned()),
            Serving::Nowhere(_) => Err("nothing serves, so nothing runs".to_owned()),
        };
        let said = |text: &str| Ok(text.to_owned());
        match signal {
            Signal::SpecDrift | Signal::WriteLayer => {
                engine.map(|_| "asked at times that nobody can foresee".to_owned())
            }
            Signal::ForeignAction | Signal::MemoryLimit => match engine?.deaf() {
                Some(why) => Err(format!("the engine's events are not heard: {why}")),
                None if engine_heard(serving) => said("sandboxd's own acts were heard"),
                None => said("events are asked for; no container was made yet"),
            },
            Signal::Credentials | Signal::Mounts | Signal::ProcessLimit => {
                engine?;
                self.alert.kernel.processes.try_out()
            }
            Signal::Namespaces => {
                engine?;
                self.alert.kernel.processes.try_out()?;
                said("process, user, network and mount; the others are told only to who may trace")
            }
            Signal::SeccompKill | Signal::SaidKill => match (serving, self.alert.kernel.ends.try_out()) {
                (Serving::Nowhere(_), _) => engine.map(|_| String::new()),
                (Serving::Docker(..), Ok(_)) => said("a command's own end, and whatever it started, by D9"),
                _ => said("a command's own end, and not that of what it started"),
            },
            Signal::ProcessEvents => {
                engine?;
                self.alert.kernel.ends.try_out()
            }
            Signal::MemoryExec => Err(CLOSED.to_owned()),
            Signal::Canary => {
                let (searcher, mut output) = (engine?.searcher(), Output::default());
                let found = searcher.canary().map(|word| output.pass(searcher, false, word.as_bytes()));
                match found {
                    Some(hits) if hits.contains(&Hit::Canary) => {
                        said("a label of every container, found when passed by")
                    }
                    _ => Err("there is no canary".to_owned()),
                }
            }
            Signal::OutputText => {
                let hits = Output::default().pass(self.searcher(serving), false, b"x release_agent x");
                if hits.is_empty() {
                    Err("a known text is not found".to_owned())
                } else {
                    said("a known text is found")
                }
            }
            Signal::CommandText => match text::in_command("nsenter -t 1") {
                Some(_) => said("a known text is found"),
                None => Err("a known text is not found".to_owned()),
            },
            Signal::AuditRecord | Signal::LandlockRecord => Err(AUDIT.to_owned()),
            Signal::Notified => Err("the native filter answers by itself; a kill shows as D4".to_owned()),
            Signal::HostFile => Err("needs CAP_SYS_ADMIN, which no role has".to_owned()),
            Signal::HoneySocket => {
                Err("no socket is put into a container: it would need a mount that the spec has not".to_owned())
            }
        }
    }
}

fn engine_heard(serving: &Serving) -> bool {
    matches!(serving, Serving::Docker(docker, _) if docker.watch().heard())
}
