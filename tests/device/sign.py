"""A device as a client that Moltbot did not write has it: builds the text that the gateway protocol has devices sign, and
signs it with `cryptography`.

Reads JSON objects from standard input, one a line: seed (64 hex digits), version (2 or 3), connect (the parameters of `connect`
without `device`), nonce, signedAt; or seed, approval (the answer of `exec.approval.get`) and decision. Prints the `device`
object of each, one a line. Standard output is all that it writes."""

import base64
import hashlib
import json
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def url_safe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def device_of(asked: dict) -> dict:
    connect, client = asked["connect"], asked["connect"]["client"]
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(asked["seed"]))
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    device = hashlib.sha256(public).hexdigest()
    parts = [
        f"v{asked['version']}",
        device,
        client["id"],
        client["mode"],
        connect["role"],
        ",".join(connect["scopes"]),
        str(asked["signedAt"]),
        connect.get("auth", {}).get("token", ""),
        asked["nonce"],
    ]
    if asked["version"] == 3:
        parts += [client.get("platform", "").lower(), client.get("deviceFamily", "").lower()]
    signature = key.sign("|".join(parts).encode())
    return {
        "id": device,
        "publicKey": url_safe(public),
        "signature": url_safe(signature),
        "signedAt": asked["signedAt"],
        "nonce": asked["nonce"],
    }


def word_about(asked: dict) -> dict:
    """A device's word about a command that waits, over what it was shown, as docs/FORMATS.md has it."""
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(asked["seed"]))
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    shown = asked["approval"]
    subject = b"moltbot/approval/v1"
    for name in ["session", "command", "why", "runs", "cwd", "environment", "image", "mounts", "network", "secrets"]:
        for text in (name.encode(), shown["request"][name].encode()):
            subject += len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(subject).hexdigest()
    device = hashlib.sha256(public).hexdigest()
    text = "|".join(
        ["moltbot/device-approval/v1", device, shown["id"], digest, shown["nonce"], asked["decision"]]
    )
    return {"publicKey": url_safe(public), "signature": url_safe(key.sign(text.encode()))}


for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps(word_about(asked) if "approval" in asked else device_of(asked)), flush=True)
