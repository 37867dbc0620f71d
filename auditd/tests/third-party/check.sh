#!/usr/bin/env bash
# Checks one stream's log with tools that know nothing of Moltbot: jq and sha256sum for the chain, openssl for the
# signatures, Go's golang.org/x/mod/sumdb packages for notes, tree and proofs.
#
#   check.sh chain FILE.jsonl
#   check.sh signatures FILE.jsonl FILE.checkpoints
#   check.sh tree FILE.jsonl FILE.checkpoints
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Every line's prev is the RFC 6962 leaf of the line before it.
chain() {
    local prev seq=0 line
    prev=$(printf '0%.0s' {1..64})
    while IFS= read -r line; do
        [ "$(jq -r .prev <<<"$line")" = "$prev" ] || { echo "line $((seq + 1)): prev is not the leaf of the line before"; return 1; }
        [ "$(jq -r .seq <<<"$line")" = "$seq" ] || { echo "line $((seq + 1)): seq"; return 1; }
        prev=$(printf '\0%s' "$line" | sha256sum | cut -d' ' -f1)
        seq=$((seq + 1))
    done <"$1"
    echo "chain of $seq lines"
}

# The key line of the generation that signed a note of this size, as the log's own records say.
key_for() {
    jq -rs --argjson size "$2" '
        [.[] | select(.type == "epoch")] as $epochs
        # A new key counts from the checkpoint on that the old one signed behind its announcement.
        | [$epochs[] | select(.keyEpoch == 0 or .seq + 2 <= ($size - 0))] | last | .key' "$1"
}

# Splits a file of checkpoints into one file a note.
notes() {
    awk -v dir="$work" 'BEGIN { n = 1; blank = 0 }
        { if ($0 == "") { blank++; if (blank == 2) { close(file); n++; blank = 0; next } }
          file = sprintf("%s/note.%04d", dir, n); print >file }' "$1"
}

signatures() {
    notes "$2"
    local note count=0 key
    for note in "$work"/note.*; do
        key=$(key_for "$1" "$(sed -n 2p "$note")")
        # SubjectPublicKeyInfo of an Ed25519 key (RFC 8410) before its 32 bytes.
        { printf '302a300506032b6570032100' | xxd -r -p; cut -d+ -f3- <<<"$key" | base64 -d | tail -c 32; } >"$work/key.der"
        sed '/^$/,$d' "$note" >"$work/text"
        grep '^— ' "$note" | head -n 1 | cut -d' ' -f3 | base64 -d | tail -c 64 >"$work/signature"
        openssl pkeyutl -verify -pubin -keyform DER -inkey "$work/key.der" -rawin -in "$work/text" \
            -sigfile "$work/signature" >/dev/null || { echo "note $((count + 1)): bad signature"; return 1; }
        count=$((count + 1))
    done
    [ "$count" -gt 0 ] && echo "$count signatures"
}

tree() {
    notes "$2"
    local note arguments=()
    for note in "$work"/note.*; do
        arguments+=("$note" "$(key_for "$1" "$(sed -n 2p "$note")")")
    done
    cp "$here/tree.go" "$work/"
    # Debian's sources of x/mod, and no network.
    (cd "$work" && GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE="${GOCACHE:-$work/cache}" GOFLAGS= HOME="$work" go build -o tree tree.go)
    "$work/tree" "$1" "${arguments[@]}"
}

"$@"
