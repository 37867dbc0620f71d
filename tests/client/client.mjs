// A client that Moltbot did not write, against a running gateway: connects, asks, chats, and prints one line of JSON.
// Usage: node client.mjs URL TOKEN MIN MAX [SEED]. With a seed of 64 hexadecimal digits it is a device as well, and with - for
// a token it has none. Exit 0 where all went well, 1 where something did not, 2 on wrong usage.
// What it reads comes from the gateway under test; it runs nothing of it and writes nothing.

import { createHash, createPrivateKey, createPublicKey, randomUUID, sign } from "node:crypto";
import { GatewayClient } from "@openclaw/gateway-client";

const [url, token, min, max, seed] = process.argv.slice(2);
if (!url || token === undefined || !min || !max) {
  console.error("usage: node client.mjs URL TOKEN MIN MAX [SEED]");
  process.exit(2);
}

const DEADLINE_MS = 20_000;
const SESSION = "agent:main:client-test";
const report = { ok: false, asked: [Number(min), Number(max)] };
const events = [];
let waiting = null;

function done(error) {
  if (error) report.error = String(error?.message ?? error);
  if (error?.details) report.details = error.details;
  report.ok = !error;
  console.log(JSON.stringify(report));
  process.exit(error ? 1 : 0);
}

function nextEvent(matches) {
  const seen = events.find(matches);
  if (seen) return Promise.resolve(seen);
  return new Promise((resolve) => {
    waiting = { matches, resolve };
  });
}

setTimeout(() => done(new Error(`not finished within ${DEADLINE_MS} ms`)), DEADLINE_MS);

/** The last 32 bytes of an Ed25519 public key's DER are the key. */
const raw = (key) => createPublicKey(key).export({ type: "spki", format: "der" }).subarray(-32);

function device(seed) {
  // PKCS #8 of an Ed25519 key is this and the seed (RFC 8410).
  const der = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), Buffer.from(seed, "hex")]);
  const key = createPrivateKey({ key: der, format: "der", type: "pkcs8" });
  const pem = (key, type) => key.export({ type, format: "pem" });
  return {
    deviceIdentity: {
      deviceId: createHash("sha256").update(raw(key)).digest("hex"),
      privateKeyPem: pem(key, "pkcs8"),
      publicKeyPem: pem(createPublicKey(key), "spki"),
    },
    hostDeps: {
      signDevicePayload: (key, text) => sign(null, Buffer.from(text), key).toString("base64url"),
      publicKeyRawBase64UrlFromPem: (key) => raw(key).toString("base64url"),
    },
  };
}

const client = new GatewayClient({
  url,
  token: token === "-" ? undefined : token,
  ...(seed ? device(seed) : {}),
  minProtocol: Number(min),
  maxProtocol: Number(max),
  onConnectError: (error) => done(error),
  onClose: (code, reason) => done(new Error(`closed: ${code} ${reason}`)),
  onGap: (gap) => done(new Error(`events are missing: ${JSON.stringify(gap)}`)),
  onEvent: (event) => {
    events.push(event);
    if (waiting?.matches(event)) waiting.resolve(event);
  },
  onHelloOk: (hello) => {
    report.protocol = hello.protocol;
    report.server = hello.server;
    report.methods = hello.features?.methods;
    report.scopes = hello.auth?.scopes;
    run().then(() => done(), done);
  },
});

async function run() {
  const health = await client.request("health", {});
  report.health = health.ok === true;
  const status = await client.request("status");
  report.backend = status.moltbot?.backend;
  const sessions = await client.request("sessions.list", { limit: 10 });
  report.sessions = sessions.count;

  const idempotencyKey = randomUUID();
  const params = { sessionKey: SESSION, message: "/help", idempotencyKey };
  const started = await client.request("chat.send", params);
  report.started = started.status;
  const mine = (event) => event.event === "chat" && event.payload?.runId === idempotencyKey;
  const final = await nextEvent((event) => mine(event) && event.payload.state === "final");
  report.final = final.payload.message?.content?.[0]?.text;
  report.deltas = events.filter((event) => mine(event) && event.payload.state === "delta").length;
  const repeated = await client.request("chat.send", params);
  report.repeated = repeated.status;
  const history = await client.request("chat.history", { sessionKey: SESSION, limit: 10 });
  report.history = history.messages.length;

  const expected =
    report.health && report.started === "started" && report.repeated === "ok" && report.history >= 2 &&
    report.deltas >= 1 && report.final?.includes("/exec");
  if (!expected) throw new Error("an answer is not what it should be");
}

client.start();
