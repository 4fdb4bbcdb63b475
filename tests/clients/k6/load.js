// A bounded load of all three kinds of call, by several virtual users at once.
//
// Every reply is checked for its exact length, its number and its class; the run fails (exit code 99)
// when one check fails, one call fails or one reply is missing. At the end one line of JSON says how
// many bytes were read.
//
// Environment: QR_GRPC_SERVER_ADDRESS, QR_GRPC_API_KEY, PROTOS (the folder protos/), LOAD (JSON: for
// each kind how many users make how many calls, of how many messages of what size); LONGEST (how long it may take,
// by default 25s).
import { check } from 'k6';
import { b64decode } from 'k6/encoding';
import { Counter } from 'k6/metrics';
import { Client, StatusOK, Stream } from 'k6/net/grpc';

const { UNARY, SUBSCRIBE, STREAM } = JSON.parse(__ENV.LOAD);

const SERVICE = 'qrng.v1.EntropyService';
const CALL = { metadata: { 'api-key': __ENV.QR_GRPC_API_KEY } };

const client = new Client();
client.load([__ENV.PROTOS], 'qrng_grpc/v1/entropy.proto');

const replies = new Counter('replies');
const bytesRead = new Counter('bytes_read');
const failures = new Counter('failures');
const streamsEnded = new Counter('streams_ended');

const expectedReplies = [UNARY, SUBSCRIBE, STREAM].reduce((sum, { calls, messages }) => sum + calls * messages, 0);

export const options = {
  scenarios: {
    unary: scenario('unary', UNARY),
    subscribe: scenario('subscribe', SUBSCRIBE),
    stream: scenario('stream', STREAM),
  },
  thresholds: {
    checks: ['rate==1'],
    failures: ['count==0'],
    replies: [`count==${expectedReplies}`],
    streams_ended: [`count==${SUBSCRIBE.calls + STREAM.calls}`],
  },
};

function scenario(exec, { users, calls }) {
  return { executor: 'shared-iterations', exec, vus: users, iterations: calls, maxDuration: __ENV.LONGEST || '25s', gracefulStop: '0s' };
}

export function unary() {
  connect();
  const sequenceId = String(__ITER);
  const response = client.invoke(`${SERVICE}/GetEntropy`, { bytes_needed: UNARY.size, sequence_id: sequenceId }, CALL);
  if (response.status === StatusOK) {
    count(response.message, UNARY.size, sequenceId);
  } else {
    failures.add(1);
    console.error(`unary: ${response.error.message}`);
  }
}

export function subscribe() {
  const sequenceId = String(__ITER);
  const stream = open('SubscribeEntropy', SUBSCRIBE.size, () => sequenceId);
  stream.write({
    bytes_per_message: SUBSCRIBE.size,
    total_bytes: SUBSCRIBE.size * SUBSCRIBE.messages,
    sequence_id: sequenceId,
  });
  stream.end();
}

export function stream() {
  const stream = open('StreamEntropy', STREAM.size, (index) => String(index));
  for (let index = 0; index < STREAM.messages; index += 1) {
    stream.write({ bytes_needed: STREAM.size, sequence_id: String(index) });
  }
  stream.end();
}

function open(method, size, sequenceIdOf) {
  connect();
  const stream = new Stream(client, `${SERVICE}/${method}`, CALL);
  let index = 0;
  stream.on('data', (message) => {
    count(message, size, sequenceIdOf(index));
    index += 1;
  });
  stream.on('error', (error) => {
    failures.add(1);
    console.error(`${method}: ${error.message}`);
  });
  stream.on('end', () => streamsEnded.add(1));
  return stream;
}

function connect() {
  if (__ITER === 0) {
    client.connect(__ENV.QR_GRPC_SERVER_ADDRESS, { plaintext: true, timeout: '5s' });
  }
}

function count(message, size, sequenceId) {
  const length = b64decode(message.data).byteLength;
  replies.add(1);
  bytesRead.add(length);
  check(message, {
    'the length is exact': () => length === size,
    'the number is echoed': () => (message.sequenceId || '0') === sequenceId,
    'the class is honest': () => message.sourceClass === 'SOURCE_CLASS_OPERATING_SYSTEM',
  });
}

export function handleSummary({ metrics }) {
  const counted = (name) => (metrics[name] ? metrics[name].values.count : 0);
  const { passes, fails } = metrics.checks.values;
  const summary = { replies: counted('replies'), bytes_read: counted('bytes_read'), checks: { passes, fails } };
  return { stdout: `${JSON.stringify(summary)}\n` };
}
