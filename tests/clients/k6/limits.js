// More of everything than three clients may have, by several virtual users of each at once, for some seconds.
//
// One client has a limit of requests a second, one of bytes a second that it meets with unary calls, and one
// of bytes a second that it meets with subscriptions. A call that is refused must be refused for its limit, and is
// repeated at once. At the end one line of JSON says for each client what it got, how often it was refused, and how many
// seconds lay between its first answer and its last (`seconds`), and between its first request and its last answer
// (`span`): its bucket stood full until sometime between the two first, and nothing came back before.
//
// Environment: QR_GRPC_SERVER_ADDRESS, PROTOS (the folder protos/), SECONDS, LIMITS (JSON: for each client its key, how
// many users it has, and the size of its messages; for the subscriptions also the bytes of each in all).
import { sleep } from 'k6';
import { b64decode } from 'k6/encoding';
import { Counter, Gauge } from 'k6/metrics';
import { Client, StatusOK, StatusResourceExhausted, Stream } from 'k6/net/grpc';

const LIMITS = JSON.parse(__ENV.LIMITS);
const KINDS = Object.keys(LIMITS);
const SERVICE = 'qrng.v1.EntropyService';
const PAUSE_S = 0.005;

const client = new Client();
client.load([__ENV.PROTOS], 'qrng_grpc/v1/entropy.proto');

// Metrics must be made here, before anything runs.
const of = (Metric, name) => Object.fromEntries(KINDS.map((kind) => [kind, new Metric(`${name}_${kind}`)]));
const served = of(Counter, 'served');
const bytesRead = of(Counter, 'bytes');
const refused = of(Counter, 'refused');
const asked = of(Gauge, 'asked');
const moments = of(Gauge, 'moments');
const failures = new Counter('failures');

export const options = {
  scenarios: {
    requests: lasting('requests', 'unary'),
    bytes: lasting('bytes', 'unary'),
    subscribed: {
      executor: 'per-vu-iterations',
      exec: 'subscribe',
      vus: LIMITS.subscribed.users,
      iterations: 1,
      maxDuration: '30s',
      env: { KIND: 'subscribed' },
    },
  },
  thresholds: { failures: ['count==0'] },
};

function lasting(kind, exec) {
  const { users } = LIMITS[kind];
  return { executor: 'constant-vus', exec, vus: users, duration: `${__ENV.SECONDS}s`, env: { KIND: kind } };
}

export function unary() {
  const kind = __ENV.KIND;
  connect(kind);
  asked[kind].add(Date.now());
  const response = client.invoke(`${SERVICE}/GetEntropy`, { bytes_needed: LIMITS[kind].size }, call(kind));
  if (response.status === StatusOK) {
    note(kind, response.message);
  } else if (response.status === StatusResourceExhausted) {
    refused[kind].add(1);
    sleep(PAUSE_S);
  } else {
    fail(kind, response.error);
  }
}

export function subscribe() {
  const kind = __ENV.KIND;
  connect(kind);
  asked[kind].add(Date.now());
  const stream = new Stream(client, `${SERVICE}/SubscribeEntropy`, call(kind));
  stream.on('data', (message) => note(kind, message));
  stream.on('error', (error) => fail(kind, error));
  stream.write({ bytes_per_message: LIMITS[kind].size, total_bytes: LIMITS[kind].total });
  stream.end();
}

function connect(kind) {
  if (__ITER === 0) {
    client.connect(__ENV.QR_GRPC_SERVER_ADDRESS, { plaintext: true, timeout: '5s' });
  }
}

function call(kind) {
  return { metadata: { 'api-key': LIMITS[kind].key } };
}

function note(kind, message) {
  moments[kind].add(Date.now());
  served[kind].add(1);
  bytesRead[kind].add(b64decode(message.data).byteLength);
}

function fail(kind, error) {
  failures.add(1);
  console.error(`${kind}: ${error.message}`);
}

export function handleSummary({ metrics }) {
  const counted = (name) => (metrics[name] ? metrics[name].values.count : 0);
  const summary = {};
  for (const kind of KINDS) {
    const { min, max } = metrics[`moments_${kind}`].values;
    summary[kind] = {
      served: counted(`served_${kind}`),
      bytes: counted(`bytes_${kind}`),
      refused: counted(`refused_${kind}`),
      seconds: (max - min) / 1000,
      span: (max - metrics[`asked_${kind}`].values.min) / 1000,
    };
  }
  return { stdout: `${JSON.stringify(summary)}\n` };
}
