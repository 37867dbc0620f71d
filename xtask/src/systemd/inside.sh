#!/bin/sh
# Runs as a unit of a freshly booted systemd: what OPERATIONS.md says of Moltbot as a service, tried. Any command that fails
# ends it.
set -eu
moltbot="/usr/lib/moltbot/moltbot --state-dir /var/lib/moltbot"
service=moltbot.service

say() { printf '== %s\n' "$*"; }
field() { systemctl show --value -p "$1" "$service"; }
trap 'code=$?; [ $code -eq 0 ] || journalctl --no-pager -n 60; echo "rc $code"' EXIT

# Until a command succeeds, for at most this many seconds.
within() {
    left=$1
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ $left -gt 0 ] || { say "never: $*"; return 1; }
        sleep 1
    done
}
is_ready() { $moltbot status --json | grep -q '"ready":true'; }
is_another() { [ "$(field MainPID)" != "$1" ] && [ "$(field MainPID)" != 0 ] && is_ready; }
has_failed() { [ "$(field ActiveState)" = failed ]; }

say "it starts, and is up when every role serves"
systemctl start "$service"
is_ready
$moltbot status --json | grep -q '"layout":"split-uid"'
$moltbot chat '/exec echo it runs' | grep -q 'it runs'

say "it is audited: nothing critical, the walls as designed, the unit no more open than it must be"
$moltbot security audit --deep --min-score 95
systemd-analyze security --no-pager --threshold=45 "$service" | tail -1
$moltbot drill run | tail -8
$moltbot logs verify

say "the timer's job runs, with a policy and without"
systemctl start moltbot-prune.service
$moltbot config set logging.keepFiles 5 --yes
systemctl start moltbot-prune.service
systemctl enable --now moltbot-prune.timer
systemctl list-timers --no-pager moltbot-prune.timer | grep -q moltbot-prune.service

say "broker killed: it comes back"
old=$(field MainPID)
kill -KILL "$old"
within 60 is_another "$old"

say "broker that hangs: the watchdog ends it, and it comes back"
old=$(field MainPID)
kill -STOP "$old"
within 120 is_another "$old"

say "a configuration that does not load: no start, and no second try"
cp /var/lib/moltbot/moltbot.json /root/good.json
printf '{ gateway: { port: "x" } }\n' >/var/lib/moltbot/moltbot.json
systemctl restart "$service" && exit 1
within 30 has_failed
[ "$(field ExecMainStatus)" = 78 ]
cat /root/good.json >/var/lib/moltbot/moltbot.json
systemctl reset-failed "$service"
systemctl start "$service"

say "the master key as a credential of the unit, and no more in the state directory"
systemctl stop "$service"
mkdir -p /etc/credstore /etc/systemd/system/moltbot.service.d
cp /var/lib/moltbot/keys/secrets.key /etc/credstore/secrets.key
chmod 600 /etc/credstore/secrets.key
rm -f /var/lib/moltbot/keys/secrets.key
printf '[Service]\nLoadCredential=secrets.key\n' >/etc/systemd/system/moltbot.service.d/key.conf
systemctl daemon-reload
systemctl start "$service"
is_ready
$moltbot chat '/exec echo still' | grep -q still
[ ! -e /var/lib/moltbot/keys/secrets.key ]

say "it stops in order, and its log verifies"
systemctl stop "$service"
[ "$(field Result)" = success ]
$moltbot logs verify
