//! When a conversation begins anew by itself: `session` of the configuration. Pure.

use serde_json::Value;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Hour of the day where nothing is said; upstream's.
const AT_HOUR: u64 = 4;
/// Minutes of silence where nothing is said; upstream's.
const IDLE_MINUTES: u64 = 60;

/// When.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reset {
    /// After this long a silence.
    idle_ms: Option<u64>,
    /// At this time of each day, in UTC.
    daily_ms: Option<u64>,
}

impl Reset {
    /// Reads the configuration for a conversation: what it says of its channel, else of its kind, else of every one.
    #[must_use]
    pub fn of(config: &Value, session: &str) -> Self {
        let part = |path: &str| config.pointer(path).filter(|part| !part.is_null());
        let minutes = part("/session/idleMinutes").and_then(Value::as_u64);
        // `agent:ID:CHANNEL:SENDER`; a conversation that is not with a channel has three parts.
        let mut parts = session.splitn(4, ':').skip(2);
        let channel = parts.next().filter(|_| parts.next().is_some());
        let own = channel.and_then(|channel| part("/session/resetByChannel")?.get(channel));
        let Some(reset) = own.or_else(|| part("/session/resetByType/dm")).or_else(|| part("/session/reset")) else {
            return Self { idle_ms: minutes.map(|minutes| minutes.saturating_mul(MINUTE_MS)), daily_ms: None };
        };
        let number = |name: &str| reset.get(name).and_then(Value::as_u64);
        let minutes = number("idleMinutes").or(minutes);
        let is_idle = reset.get("mode").is_some_and(|mode| mode == "idle");
        let minutes = if is_idle { minutes.or(Some(IDLE_MINUTES)) } else { minutes };
        let hour = number("atHour").unwrap_or(AT_HOUR).min(23);
        Self {
            idle_ms: minutes.map(|minutes| minutes.saturating_mul(MINUTE_MS)),
            daily_ms: (!is_idle).then(|| hour.saturating_mul(HOUR_MS)),
        }
    }

    /// True where a message now, in milliseconds since 1970, begins a conversation anew that was last spoken in then; 0 is
    /// never.
    #[must_use]
    pub fn is_due(self, then: u64, now: u64) -> bool {
        if then == 0 {
            return false;
        }
        let silent = self.idle_ms.is_some_and(|most| now.saturating_sub(then) > most);
        let begun = |at: u64| (now.saturating_sub(at) / DAY_MS).saturating_mul(DAY_MS).saturating_add(at);
        silent || self.daily_ms.is_some_and(|at| then < begun(at) && begun(at) <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(session: Value) -> Reset {
        Reset::of(&json!({"session": session}), "agent:main:main")
    }

    #[test]
    fn channel_is_before_the_kind_and_the_kind_before_what_holds_for_all() {
        let idle = |minutes: u64| json!({"mode": "idle", "idleMinutes": minutes});
        let config = |session: Value| json!({ "session": session });
        let all = config(json!({"reset": idle(1), "resetByType": {"dm": idle(2), "group": idle(9)},
            "resetByChannel": {"telegram": idle(3), "main": idle(4)}}));
        let kinds = config(json!({"reset": idle(1), "resetByType": {"group": idle(9), "dm": null}}));
        for (config, session, minutes) in [
            (&all, "agent:main:main", 2),
            (&all, "agent:main:telegram:7", 3),
            (&all, "agent:work:telegram:dm:7", 3),
            (&all, "agent:main:discord:7", 2),
            (&all, "agent:main:telegram", 2),
            (&kinds, "agent:main:telegram:7", 1),
        ] {
            assert_eq!(Reset::of(config, session).idle_ms, Some(minutes * MINUTE_MS), "{session}");
        }
    }

    #[test]
    fn silence_and_the_hour_of_the_day_end_a_conversation_and_nothing_else_does() {
        let noon = 20_000 * DAY_MS + 12 * HOUR_MS;
        let daily = of(json!({"reset": {"mode": "daily", "atHour": 6}}));
        for (then, now, due) in [
            (noon, noon + 1, false),
            (noon, noon + 17 * HOUR_MS, false),
            (noon, noon + 18 * HOUR_MS, true),
            (noon - 6 * HOUR_MS, noon, false),
            (noon - 6 * HOUR_MS - 1, noon, true),
            (noon, noon + 5 * DAY_MS, true),
            (0, noon, false),
        ] {
            assert_eq!(daily.is_due(then, now), due, "{then} {now}");
        }
        assert!(!of(json!({})).is_due(noon, noon + 1000 * DAY_MS));
        let idle = of(json!({"idleMinutes": 5}));
        assert!(!idle.is_due(noon, noon + 5 * MINUTE_MS) && idle.is_due(noon, noon + 5 * MINUTE_MS + 1));
        let idle = of(json!({"reset": {"mode": "idle"}}));
        assert!(!idle.is_due(noon, noon + HOUR_MS) && idle.is_due(noon, noon + HOUR_MS + 1));
        let both = of(json!({"reset": {"idleMinutes": 1}}));
        assert!(both.is_due(noon, noon + 2 * MINUTE_MS) && both.is_due(noon, noon + DAY_MS));
        assert_eq!(both.daily_ms, Some(4 * HOUR_MS));
    }
}
