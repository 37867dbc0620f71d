"""A second reader of vault.db, written from docs/FORMATS.md alone. Usage: read_vault.py KEYFILE VAULTDB [PASSPHRASE]
Prints one JSON object; needs the package `cryptography`. For tests and for a day on which nothing else is left."""

import hashlib, hmac, json, struct, sys
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def hkdf(key, salt, info, size=32):
    return HKDF(hashes.SHA256(), size, salt, info).derive(key)


def lp(*fields):
    return b"".join(struct.pack("<Q", len(field)) + field for field in fields)


def root(leaves):
    if len(leaves) < 2:
        return hashlib.sha256(b"\0" + leaves[0] if leaves else b"").digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root(leaves[:half]) + root(leaves[half:])).digest()


class Reader:
    def __init__(self, data):
        self.data = data

    def raw(self, size):
        assert size <= len(self.data), "cut"
        piece, self.data = self.data[:size], self.data[size:]
        return piece

    def number(self, kind):
        return struct.unpack("<" + kind, self.raw(struct.calcsize("<" + kind)))[0]

    def bytes(self):
        return self.raw(self.number("I"))


master, file = bytes.fromhex(open(sys.argv[1]).read().strip()), open(sys.argv[2], "rb").read()
if file[:8] == b"MOLTPASS":
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    memory, passes, lanes, salt = struct.unpack("<III32s", file[8:52])
    stretched = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory).derive(sys.argv[3].encode())
    master, file = hkdf(master + stretched, salt, b"moltbot/passphrase/v1"), file[52:]
header, body, stored_root, tag = file[:84], file[84:-64], file[-64:-32], file[-32:]
magic, key_id, vault, generation, salt, size = struct.unpack("<8s16s16sQ32sI", header)
assert magic == b"MOLTVLT2" and size == len(body), "not a whole store of this version"
assert key_id == hkdf(master, b"", b"moltbot/key-id/v1")[:16], "another key's"
trailer = hmac.new(hkdf(master, vault, b"moltbot/trailer/v1"), file[:-32], "sha256").digest()
assert hmac.compare_digest(trailer, tag), "altered"
body = Reader(AESGCM(hkdf(master, salt, b"moltbot/body/v1" + vault)).decrypt(bytes(12), body, header))
previous, keks, secrets, leaves = body.raw(32), {}, {}, []
for _ in range(body.number("I")):
    term, created, wraps, nonce, wrapped = *struct.unpack("<IQI12s", body.raw(28)), body.raw(48)
    aad = lp(b"kek", vault) + struct.pack("<IQ", term, created)
    keks[term] = AESGCM(hkdf(master, vault, b"moltbot/kek-wrap/v1")).decrypt(nonce, wrapped, aad)
for _ in range(body.number("I")):
    leaves.append(body.bytes())
    record = Reader(leaves[-1])
    name, version, term, created, policy = record.bytes(), *struct.unpack("<QIQ", record.raw(20)), record.bytes()
    salt, nonce, wrapped, commit, sealed = *(record.raw(size) for size in (16, 12, 48, 32)), record.bytes()
    bound = lp(vault, name) + struct.pack("<QIQ", version, term, created) + hashlib.sha256(policy).digest()
    dek = AESGCM(keks[term]).decrypt(nonce, wrapped, lp(b"dek") + bound)
    both = hkdf(dek, salt, b"moltbot/secret/v1", 64)
    assert hmac.compare_digest(both[32:], commit), "commitment"
    padded = AESGCM(both[:32]).decrypt(bytes(12), sealed, lp(b"sec") + bound + commit)
    value = padded[2 : 2 + struct.unpack("<H", padded[:2])[0]]
    secrets[name.decode()] = {"version": version, "policy": policy.decode(), "value": value.hex(), "dek": dek.hex()}
assert root(leaves) == stored_root, "root"
keks = [key.hex() for key in keks.values()]
json.dump({"vault": vault.hex(), "generation": generation, "keks": keks, "secrets": secrets}, sys.stdout)
