//! Rules about who may speak.

use super::{Findings, Severity};
use crate::schema::{Channel, Config, DmPolicy, DmScope, GroupPolicy};
use crate::source::join;

/// Lines that the vault is told, at most.
const MAX_LINES: usize = 256;
/// Bytes of a sender's id at most.
const MAX_ID: usize = 128;

pub(super) fn rules(config: &Config, all: &mut Findings) {
    let defaults = &config.channels.defaults;
    open(all, "channels.defaults.dmPolicy", "channels.defaults.dm.open", defaults.dm_policy == DmPolicy::Open);
    open_group(all, "channels.defaults.groupPolicy", defaults.group_policy == GroupPolicy::Open);
    all.refuse_if(
        config.channels.lines().len() > MAX_LINES,
        "channels.too_many",
        "channels",
        "more senders are listed than the vault is told of",
        "keep them in the vault: `moltbot allowlist add CHANNEL SENDER`",
    );
    for (name, channel) in config.channels.iter() {
        one(name, channel, config, all);
    }
}

fn open(all: &mut Findings, path: &str, id: &str, is: bool) {
    all.refuse_if(
        is,
        id,
        path,
        "\"open\" is gone: strangers would speak to an agent that runs commands",
        "use \"pairing\" or \"allowlist\"; see docs/security/breaking-changes-phase1.md",
    );
}

fn open_group(all: &mut Findings, path: &str, is: bool) {
    all.refuse_if(
        is,
        "channels.groups.open",
        path,
        "\"open\" is gone: everybody in a group would speak to an agent that runs commands",
        "use \"allowlist\", and list who may",
    );
}

/// Groups are not served, as if every list of them were empty: what would let somebody in has no effect and is refused, so that
/// nobody takes it for one that has.
fn not_served(channel: &Channel, at: &dyn Fn(&str) -> String, all: &mut Findings) {
    let mut refuse = |path: &str| {
        all.refuse_if(
            true,
            "channels.groups.not_served",
            path,
            "groups are not served: nobody speaks to the agent in one, whoever is listed",
            "remove it; whoever is to speak writes directly (allowFrom, or `moltbot pairing`)",
        );
    };
    if !channel.group_allow_from.is_empty() {
        refuse(&at("groupAllowFrom"));
    }
    for (groups, key) in [(&channel.groups, "groups"), (&channel.guilds, "guilds")] {
        for (group, _) in groups.iter().filter(|(_, rule)| rule.enabled) {
            refuse(&join(&at(key), group));
        }
    }
}

fn one(name: &str, channel: &Channel, config: &Config, all: &mut Findings) {
    let at = |key: &str| format!("channels.{name}.{key}");
    let policy = channel.dm_policy(&config.channels.defaults);
    let spelled = if channel.dm_policy.is_some() { at("dmPolicy") } else { at("dm.policy") };
    let own = channel.dm_policy.or(channel.dm.policy);
    open(all, &spelled, &at("dm.open"), own == Some(DmPolicy::Open));
    open_group(all, &at("groupPolicy"), channel.group_policy == Some(GroupPolicy::Open));
    all.refuse_if(
        matches!((channel.dm_policy, channel.dm.policy), (Some(one), Some(other)) if one != other),
        &at("dm.policy_twice"),
        &at("dm.policy"),
        "dmPolicy and dm.policy say different things",
        "keep one of them",
    );
    let secrets = [
        (&channel.bot_token, "botToken"),
        (&channel.token, "token"),
        (&channel.app_token, "appToken"),
        (&channel.signing_secret, "signingSecret"),
    ];
    for (secret, key) in secrets {
        all.refuse_if(
            secret.as_deref().is_some_and(|reference| crate::schema::secret(reference).is_none()),
            "channels.secret_reference",
            &at(key),
            "this is no name of a secret in the vault",
            &format!("write \"vault:{name}.{}\", or remove the key", key.to_lowercase()),
        );
    }
    let lists = [
        (&channel.allow_from, at("allowFrom")),
        (&channel.dm.allow_from, at("dm.allowFrom")),
        (&channel.group_allow_from, at("groupAllowFrom")),
    ];
    let groups = channel.groups.iter().map(|(group, rule)| (group, rule, "groups"));
    let groups = groups.chain(channel.guilds.iter().map(|(group, rule)| (group, rule, "guilds")));
    let inner = groups.flat_map(|(group, rule, key)| {
        let at = |list: &str| at(&format!("{key}.{group}.{list}"));
        [(&rule.allow_from, at("allowFrom")), (&rule.users, at("users"))]
    });
    not_served(channel, &at, all);
    for (list, path) in lists.into_iter().chain(inner) {
        if list.iter().any(|id| id.0 == "*") {
            all.push(
                Severity::Critical,
                &at("allowlist.wildcard"),
                &path,
                "* would let everybody in",
                "it is nobody here: the vault lets in whom it is told of, one by one",
                "list who may, by their number on the channel",
            );
        }
    }
    for (list, path) in [(&channel.allow_from, at("allowFrom")), (&channel.dm.allow_from, at("dm.allowFrom"))] {
        let bad = |id: &str| id.is_empty() || id.len() > MAX_ID || !id.bytes().all(|byte| byte.is_ascii_graphic());
        all.refuse_if(
            list.iter().any(|id| bad(&id.0)),
            &at("allowlist.id"),
            &path,
            "this is no sender's id",
            "an id has 1 to 128 printable characters without spaces",
        );
        let number = |id: &str| {
            let id = [name, "tg", "user"]
                .iter()
                .fold(id, |id, prefix| id.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(':')).unwrap_or(id));
            id == "*" || id.bytes().all(|byte| byte.is_ascii_digit())
        };
        if ["telegram", "discord"].contains(&name) && !list.iter().all(|id| number(&id.0)) {
            all.push(
                Severity::Warn,
                &at("allowlist.mutable_id"),
                &path,
                "a name stands in the list",
                "a name can be given up and taken by another: it lets nobody in here",
                "list the number that the channel knows the sender by",
            );
        }
    }
    if policy == DmPolicy::Disabled && channel.enabled {
        let title = "nobody can write to it directly";
        all.push(Severity::Info, &at("dm.disabled"), &spelled, title, "that is a choice", "pairing lets you decide");
    }
    let many = channel.allow_from.len() + channel.dm.allow_from.len() > 1;
    if config.session.dm_scope == DmScope::Main && many {
        all.push(
            Severity::Warn,
            &at("dm.scope_main_multiuser"),
            "session.dmScope",
            "several people share one conversation",
            "each of them sees what the others told the agent",
            "set it to per-channel-peer",
        );
    }
}
