//! What the engine says that was done with a container, by whomever.

use super::Watch;
use super::own::{self, Act, Whose};
use super::table::Signal;
use crate::runs::lock;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::sleep;

/// Pause before the engine's events are asked for again.
const AGAIN: Duration = Duration::from_millis(500);

impl Watch {
    pub(super) async fn listen(self: Arc<Self>) {
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

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
