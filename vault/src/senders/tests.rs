use super::pending::{ATTEMPTS, CHANNELS, LIFE, PER_CHANNEL};
use super::*;
use crate::auth::AskError;
use crate::auth::tests::Kept;
use crate::codec::{Reader, Writer};
use crate::lease::Leases;
use crate::lend::Desk;
use crate::state::State;
use crate::state::tests::Dirs;
use proptest::prelude::*;
use proto::audit::Record;
use proto::senders::{SenderAnswer, SenderMode};
use proto::vault::VaultReply;

const NOW: u64 = 1_795_431_600;

fn ch(name: &str) -> ChannelId {
    ChannelId(BoundedStr::truncated(name))
}

fn id(sender: &str) -> SenderId {
    SenderId(BoundedStr::truncated(sender))
}

fn place(channel: &str, sender: &str) -> Place {
    Place::new(&ch(channel), &id(sender)).unwrap()
}

/// As many as can wait, each as long as it may be.
pub(crate) fn full_of_strangers() -> Senders {
    let (mut senders, said) = (Senders::default(), Configured::default());
    for stranger in 0..100 {
        let channel = format!("c{:0>31}", stranger / 5);
        let place = place(&channel, &format!("{stranger:0>128}"));
        senders.ask(&said, &place, &"n".repeat(64), NOW, draw).unwrap();
    }
    senders
}

/// Tables with something in every field, for tests of the store.
pub(crate) fn some() -> Senders {
    let (mut senders, said) = (Senders::default(), Configured::default());
    let mut ask = |channel, sender| senders.ask(&said, &place(channel, sender), "A name", NOW, draw).unwrap();
    ask("telegram", "1");
    ask("signal", "+441");
    let wrong = SenderVerb::Approve { channel: ch("telegram"), code: PairingCode(*b"########") };
    senders.change(&said, &wrong, NOW).unwrap_err();
    let name = BoundedStr::truncated("Ann");
    senders.change(&said, &SenderVerb::Allow { channel: ch("telegram"), sender: id("7"), name }, NOW).unwrap();
    senders.change(&said, &SenderVerb::SetMode { channel: ch("slack"), mode: SenderMode::Disabled }, NOW).unwrap();
    senders
}

fn draw() -> Result<PairingCode, Errno> {
    let mut random = [0; 8];
    crate::entropy::fill(&mut random).map(|()| PairingCode::of(random))
}

struct World {
    dirs: Dirs,
    state: State,
    log: Kept,
}

impl World {
    fn new() -> Self {
        let dirs = Dirs::new();
        let state = dirs.open().unwrap();
        Self { dirs, state, log: Kept::default() }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Desk<'_, Kept>) -> T) -> T {
        let mut leases = Leases::default();
        act(&mut Desk { state: &mut self.state, leases: &mut leases, log: &mut self.log, now_ms: 1 })
    }

    fn ask(&mut self, channel: &str, sender: &str, now: u64) -> Result<Verdict, AskError> {
        match self.with(|desk| desk.may_speak(&ch(channel), &id(sender), "Mallory\u{1b}[2J", now))? {
            VaultReply::Speak(verdict) => Ok(verdict),
            other => panic!("{other:?}"),
        }
    }

    fn code(&mut self, channel: &str, sender: &str, now: u64) -> PairingCode {
        match self.ask(channel, sender, now).unwrap() {
            Verdict::Pair { code, .. } => code,
            other => panic!("{other:?}"),
        }
    }

    fn verb(&mut self, verb: &SenderVerb, now: u64) -> Result<SenderAnswer, AskError> {
        self.with(|desk| desk.on_sender_verb(1000, verb, now))
    }

    fn approve(&mut self, channel: &str, code: PairingCode, now: u64) -> Result<SenderAnswer, AskError> {
        self.verb(&SenderVerb::Approve { channel: ch(channel), code }, now)
    }

    fn restart(&mut self) {
        self.state = self.dirs.open().unwrap();
    }

    fn last(&self) -> (String, String, String, bool, String) {
        match self.log.records.last().unwrap() {
            Record::Sender { channel, sender, verb, granted, detail, .. } => {
                (channel.to_string(), sender.to_string(), verb.to_string(), *granted, detail.to_string())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn rule<T>(outcome: Result<T, AskError>) -> String {
    match outcome.map(drop).unwrap_err() {
        AskError::Refused(refusal) => refusal.rule.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn stranger_speaks_only_after_the_code_was_approved_and_that_survives_a_restart() {
    let mut world = World::new();
    let code = world.code("telegram", "42", NOW);
    assert_eq!(world.last(), ("telegram".into(), "42".into(), "pairing.request".into(), true, String::new()));
    world.restart();
    let again = world.ask("telegram", "tg:42", NOW + 60).unwrap();
    assert_eq!(again, Verdict::Pair { code, seconds: 840, fresh: false });
    let SenderAnswer::Listed(row) = world.approve("telegram", code, NOW + 61).unwrap() else { panic!("not listed") };
    assert_eq!((row.sender.0.as_str(), row.paired, row.since), ("42", true, NOW + 61));
    assert!(!row.name.contains('\u{1b}'), "a stranger's name cannot steer a terminal");
    assert_eq!(world.last(), ("telegram".into(), "42".into(), "pairing.approve".into(), true, String::new()));
    world.restart();
    assert_eq!(world.ask("telegram", "42", NOW + 99_999).unwrap(), Verdict::Allowed);
    assert!(matches!(world.ask("telegram", "43", NOW).unwrap(), Verdict::Pair { .. }));
    assert!(
        matches!(world.ask("signal", "42", NOW).unwrap(), Verdict::Pair { .. }),
        "another channel's list is another"
    );
}

#[test]
fn nobody_is_on_an_empty_list_and_nobody_speaks_on_a_disabled_channel() {
    let mut world = World::new();
    let mode = |mode| SenderVerb::SetMode { channel: ch("signal"), mode };
    world.verb(&mode(SenderMode::Allowlist), NOW).unwrap();
    assert_eq!(world.ask("signal", "+441", NOW).unwrap(), Verdict::Refused(SenderRefusal::NotListed));
    let allow = SenderVerb::Allow { channel: ch("signal"), sender: id("+441"), name: BoundedStr::truncated("Ann") };
    world.verb(&allow, NOW).unwrap();
    assert_eq!(world.ask("signal", "+441", NOW).unwrap(), Verdict::Allowed);
    assert_eq!(world.ask("signal", "+442", NOW).unwrap(), Verdict::Refused(SenderRefusal::NotListed));
    world.verb(&mode(SenderMode::Disabled), NOW).unwrap();
    assert_eq!(world.ask("signal", "+441", NOW).unwrap(), Verdict::Refused(SenderRefusal::Disabled));
}

#[test]
fn three_wait_on_a_channel_and_a_fourth_gets_no_code_until_one_is_over() {
    let mut world = World::new();
    for n in 0..PER_CHANNEL {
        world.code("telegram", &n.to_string(), NOW + u64::try_from(n).unwrap());
    }
    assert_eq!(world.ask("telegram", "9", NOW + 5).unwrap(), Verdict::Refused(SenderRefusal::TooMany));
    let generation = world.state.generation();
    assert_eq!(world.ask("telegram", "9", NOW + LIFE - 1).unwrap(), Verdict::Refused(SenderRefusal::TooMany));
    assert_eq!(world.state.generation(), generation, "a flood writes nothing");
    assert!(matches!(world.ask("telegram", "9", NOW + LIFE).unwrap(), Verdict::Pair { fresh: true, .. }));
    for n in 0..2 * CHANNELS {
        world.ask(&format!("c{n}"), "1", NOW + LIFE).unwrap();
    }
    assert_eq!(world.state.contents().senders.pending.requests().count(), 3 + CHANNELS - 1);
}

#[test]
fn code_is_over_after_fifteen_minutes_and_the_next_one_is_another() {
    let mut world = World::new();
    let code = world.code("telegram", "42", NOW);
    assert_eq!(rule(world.approve("telegram", code, NOW + LIFE)), "pairing.no_request");
    assert_ne!(world.code("telegram", "42", NOW + LIFE), code);
    // A clock that was set back keeps nobody waiting for longer than from then on.
    let code = world.code("telegram", "42", NOW - 86_400);
    assert_eq!(rule(world.approve("telegram", code, NOW - 86_400 + LIFE)), "pairing.no_request");
}

#[test]
fn wrong_codes_are_counted_over_a_restart_and_the_fifth_voids_the_right_one() {
    let mut world = World::new();
    let code = world.code("telegram", "42", NOW);
    let mut wrong = code;
    wrong.0[7] = if code.0[7] == b'A' { b'B' } else { b'A' };
    for _ in 1..ATTEMPTS {
        assert_eq!(rule(world.approve("telegram", wrong, NOW)), "pairing.wrong_code");
        world.restart();
    }
    assert_eq!(rule(world.approve("telegram", wrong, NOW)), "pairing.void");
    assert!(!world.last().3);
    assert_eq!(rule(world.approve("telegram", code, NOW)), "pairing.no_request");
    let code = world.code("telegram", "42", NOW);
    for _ in 1..ATTEMPTS {
        rule(world.approve("telegram", wrong, NOW));
    }
    world.approve("telegram", code, NOW).unwrap();
}

#[test]
fn code_of_one_channel_approves_nobody_on_another() {
    let mut world = World::new();
    let code = world.code("telegram", "42", NOW);
    world.code("signal", "+441", NOW);
    assert_eq!(rule(world.approve("signal", code, NOW)), "pairing.wrong_code");
    world.approve("telegram", code, NOW).unwrap();
}

#[test]
fn revoked_sender_is_off_the_list_and_its_old_code_is_void() {
    let mut world = World::new();
    let code = world.code("telegram", "42", NOW);
    let revoke = SenderVerb::Revoke { channel: ch("telegram"), sender: id("telegram:42") };
    assert_eq!(world.verb(&revoke, NOW).unwrap(), SenderAnswer::Done(1));
    assert_eq!(rule(world.approve("telegram", code, NOW)), "pairing.no_request");
    let code = world.code("telegram", "42", NOW);
    world.approve("telegram", code, NOW).unwrap();
    world.verb(&revoke, NOW).unwrap();
    world.restart();
    assert!(matches!(world.ask("telegram", "42", NOW).unwrap(), Verdict::Pair { fresh: true, .. }));
    world.verb(&revoke, NOW).unwrap();
    assert_eq!(rule(world.verb(&revoke, NOW)), "senders.not_there");
}

#[test]
fn ids_that_can_change_hands_wildcards_and_what_is_none_are_refused() {
    let mut world = World::new();
    let allow =
        |channel, sender| SenderVerb::Allow { channel: ch(channel), sender: id(sender), name: BoundedStr::default() };
    for (channel, sender, expected) in [
        ("telegram", "@alice", "senders.mutable_id"),
        ("telegram.work", "alice", "senders.mutable_id"),
        ("discord", "alice#1234", "senders.mutable_id"),
        ("telegram", "*", "allowlist.wildcard"),
        ("signal", "signal:*", "allowlist.wildcard"),
        ("signal", "", "senders.id"),
        ("signal", "a b", "senders.id"),
        ("signal", "a\u{1b}", "senders.id"),
        ("", "1", "senders.channel"),
        ("Telegram", "1", "senders.channel"),
        ("../x", "1", "senders.channel"),
    ] {
        assert_eq!(rule(world.verb(&allow(channel, sender), NOW)), expected, "{channel} {sender}");
        assert_eq!(rule(world.ask(channel, sender, NOW)), expected, "{channel} {sender}");
    }
    for (channel, sender) in [("telegram", "tg:7"), ("discord", "user:8"), ("signal", "+441"), ("imessage", "a@b.c")] {
        world.verb(&allow(channel, sender), NOW).unwrap();
    }
    assert_eq!(world.ask("telegram", "7", NOW).unwrap(), Verdict::Allowed);
    assert_eq!(world.ask("discord", "8", NOW).unwrap(), Verdict::Allowed);
}

#[test]
fn configuration_closes_what_the_store_leaves_open_and_opens_nothing_that_it_closed() {
    let mut world = World::new();
    let mode = |channel, mode| SenderVerb::SetMode { channel: ch(channel), mode };
    let code = world.code("telegram", "42", NOW);
    world.verb(&mode("irc", SenderMode::Disabled), NOW).unwrap();
    let said =
        ["* mode disabled", "telegram mode allowlist", "telegram allow 7", "irc mode pairing", "signal mode pairing"];
    let configure = |world: &mut World, said: &[&str]| {
        world.restart();
        let state = std::mem::replace(&mut world.state, world.dirs.open().unwrap());
        world.state = state.configure(Configured::read(said.iter().copied()).unwrap());
    };
    configure(&mut world, &said);
    assert_eq!(world.ask("telegram", "42", NOW).unwrap(), Verdict::Refused(SenderRefusal::NotListed));
    assert_eq!(world.ask("telegram.work", "7", NOW).unwrap(), Verdict::Allowed);
    assert_eq!(world.ask("irc", "a", NOW).unwrap(), Verdict::Refused(SenderRefusal::Disabled));
    assert_eq!(world.ask("matrix", "a", NOW).unwrap(), Verdict::Refused(SenderRefusal::Disabled));
    assert!(matches!(world.ask("signal", "+1", NOW).unwrap(), Verdict::Pair { .. }), "the twin: what is open is open");
    // The operator's verbs say so where they would be of no effect.
    assert_eq!(rule(world.approve("telegram", code, NOW)), "senders.configured");
    assert_eq!(rule(world.verb(&mode("telegram", SenderMode::Pairing), NOW)), "senders.configured");
    world.verb(&mode("telegram", SenderMode::Disabled), NOW).unwrap();
    world.verb(&mode("telegram", SenderMode::Allowlist), NOW).unwrap();
    let revoke = SenderVerb::Revoke { channel: ch("telegram"), sender: id("7") };
    assert_eq!(rule(world.verb(&revoke, NOW)), "senders.listed_in_config");
    let SenderAnswer::Allowed(listed) = world.verb(&SenderVerb::Allowed { after: None }, NOW).unwrap() else {
        panic!()
    };
    assert_eq!((listed.len(), listed[0].sender.0.as_str(), listed[0].since), (1, "7", 0));
    let SenderAnswer::Channels(rows) = world.verb(&SenderVerb::Channels, NOW).unwrap() else { panic!("no channels") };
    let modes: Vec<_> = rows.iter().map(|row| (row.channel.0.as_str(), row.mode, row.allowed)).collect();
    assert!(modes.contains(&("telegram", SenderMode::Allowlist, 1)), "{modes:?}");
    // Without it everything is as the store has it.
    configure(&mut world, &[]);
    assert!(matches!(world.ask("telegram", "7", NOW).unwrap(), Verdict::Refused(SenderRefusal::NotListed)));
    assert!(matches!(world.ask("matrix", "a", NOW).unwrap(), Verdict::Pair { .. }));
}

#[test]
fn what_cannot_be_recorded_or_stored_has_not_happened() {
    let mut world = World::new();
    world.log.broken = true;
    assert_eq!(rule(world.ask("telegram", "42", NOW)), "audit.unwritable");
    assert_eq!(world.state.contents().senders, Senders::default());
    world.log.broken = false;
    let code = world.code("telegram", "42", NOW);
    world.log.broken = true;
    assert_eq!(rule(world.approve("telegram", code, NOW)), "audit.unwritable");
    assert_eq!(rule(world.verb(&SenderVerb::Pending, NOW)), "audit.unwritable");
    world.log.broken = false;
    let block = world.dirs.dir.path().join("vault/vault.db.new");
    std::fs::write(&block, b"").unwrap();
    assert_eq!(rule(world.approve("telegram", code, NOW)), "vault.unwritable");
    assert_eq!((world.last().3, world.last().4.as_str()), (false, "vault.unwritable"));
    std::fs::remove_file(block).unwrap();
    world.approve("telegram", code, NOW).unwrap();
}

#[test]
fn refused_stranger_is_one_record_a_quarter_of_an_hour_however_often_it_writes() {
    let mut world = World::new();
    world.verb(&SenderVerb::SetMode { channel: ch("signal"), mode: SenderMode::Allowlist }, NOW).unwrap();
    let before = world.log.records.len();
    for n in 0..50 {
        world.ask("signal", "+441", NOW + n).unwrap();
    }
    assert_eq!(world.log.records.len(), before + 1);
    assert_eq!(world.last(), ("signal".into(), "+441".into(), "speak".into(), false, "senders.not_listed".into()));
    world.ask("signal", "+441", NOW + 950).unwrap();
    assert_eq!(world.log.records.len(), before + 2);
    for n in 0..1000 {
        world.ask("signal", &format!("+44{n}"), NOW + 950).unwrap();
    }
    assert!(world.log.records.len() <= before + 1 + 256 + 1);
}

#[test]
fn lists_are_shown_page_by_page_and_are_bounded() {
    let mut world = World::new();
    let (mut senders, said) = (Senders::default(), Configured::default());
    for n in 0..lists::ENTRIES {
        let verb =
            SenderVerb::Allow { channel: ch("signal"), sender: id(&format!("{n:05}")), name: BoundedStr::default() };
        senders.change(&said, &verb, NOW).unwrap();
    }
    let more = SenderVerb::Allow { channel: ch("signal"), sender: id("more"), name: BoundedStr::default() };
    assert_eq!(senders.change(&said, &more, NOW).unwrap_err().rule(), "senders.full");
    world.state.set_senders(senders).unwrap();
    let (mut seen, mut after) = (0, None);
    loop {
        let SenderAnswer::Allowed(page) = world.verb(&SenderVerb::Allowed { after: after.clone() }, NOW).unwrap()
        else {
            panic!("no page")
        };
        seen += page.len();
        let Some(last) = page.last() else { break };
        after = Some((last.channel.clone(), last.sender.clone()));
    }
    assert_eq!(seen, lists::ENTRIES);
    let SenderAnswer::Channels(rows) = world.verb(&SenderVerb::Channels, NOW).unwrap() else { panic!("no channels") };
    assert_eq!((rows.len(), rows[0].allowed), (1, 1024));
}

fn steps() -> impl Strategy<Value = Vec<(u8, u8, u8, u64)>> {
    prop::collection::vec((0u8..6, 0u8..3, 0u8..6, 0u64..400), 1..120)
}

proptest! {
    /// Whatever strangers and a guesser do: nobody speaks whom the operator did not let in.
    #[test]
    fn only_those_whom_the_operator_let_in_ever_speak(steps in steps()) {
        let (mut senders, said) = (Senders::default(), Configured::default());
        let mut model = std::collections::BTreeSet::new();
        let mut shown = std::collections::BTreeMap::new();
        let mut now = NOW;
        for (what, channel, sender, wait) in steps {
            now += wait;
            let (c, s) = (format!("c{channel}"), format!("{sender}"));
            let at = place(&c, &s);
            match what {
                0..=2 => match senders.ask(&said, &at, "", now, draw).unwrap() {
                    Verdict::Allowed => prop_assert!(model.contains(&(c, s))),
                    Verdict::Pair { code, .. } => {
                        prop_assert!(!model.contains(&(c.clone(), s.clone())));
                        shown.insert((c, s), code);
                    }
                    Verdict::Refused(_) => prop_assert!(!model.contains(&(c, s))),
                },
                3 => {
                    if let Some(code) = shown.get(&(c.clone(), s.clone())) {
                        let verb = SenderVerb::Approve { channel: ch(&c), code: *code };
                        if let Ok(Change::Listed(listed, _)) = senders.change(&said, &verb, now) {
                            prop_assert_eq!(&listed, &at);
                            model.insert((c, s));
                        }
                    }
                }
                4 => {
                    let _ = senders.change(&said, &SenderVerb::Approve { channel: ch(&c), code: PairingCode(*b"AAAAAAAA") }, now);
                }
                _ => {
                    let _ = senders.change(&said, &SenderVerb::Revoke { channel: ch(&c), sender: id(&s) }, now);
                    model.remove(&(c, s));
                }
            }
            let waiting = senders.pending.requests().filter(|(on, _)| *on == format!("c{channel}")).count();
            prop_assert!(waiting <= PER_CHANNEL);
            let mut into = Writer::new(1024);
            senders.pending.encode(&mut into);
            senders.lists.encode(&mut into);
            let bytes = into.finish();
            let mut from = Reader::new(&bytes);
            let back = Senders {
                pending: Pending::decode(&mut from).unwrap(),
                lists: Lists::decode(&mut from).unwrap(),
            };
            prop_assert!(from.is_done());
            prop_assert_eq!(&back, &senders);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_tables_or_small_ones(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Pending::decode(&mut Reader::new(&bytes));
        let _ = Lists::decode(&mut Reader::new(&bytes));
    }
}
