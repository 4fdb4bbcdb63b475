// What a Node client gets from a real gateway. Environment: as in gateway.js, and the ids to expect,
// COLLECTOR_ID. Run by tests/clients/test_node.py, which starts the gateway.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { status } from '@grpc/grpc-js';

import { all, entropy, errorInfo, key, qrEntropy, quantumRng, unary } from './gateway.js';

const INT64_MIN = '-9223372036854775808';
const INT64_MAX = '9223372036854775807';
const LABELS = {
  provenance: [],
  device_id: 'test-device',
  source_class: 'SOURCE_CLASS_OPERATING_SYSTEM',
  processing: 'PROCESSING_NONE',
  custody: 'CUSTODY_LOCAL',
  health_verdict: 'HEALTH_VERDICT_UNTESTED',
  collector_id: process.env.COLLECTOR_ID,
};

const lengths = (replies) => replies.map((reply) => reply.data.length);
const numbers = (replies) => replies.map((reply) => reply.sequence_id);

function assertLabelled({ data, sequence_id, generation_timestamp_ns, capture_start_ns, capture_end_ns, ...labels }) {
  assert.deepEqual(labels, LABELS);
  const [start, generated, end] = [capture_start_ns, generation_timestamp_ns, capture_end_ns].map(BigInt);
  assert.ok(start > 0n && start <= generated && generated <= end);
}

after(() => [entropy, qrEntropy, quantumRng].forEach((client) => client.close()));

test('GetEntropy returns exactly what was asked for, labelled, its number echoed', async () => {
  for (const sequence_id of [INT64_MIN, INT64_MAX, '0']) {
    const reply = await unary(entropy, 'GetEntropy', { bytes_needed: 4096, sequence_id });
    assert.equal(reply.data.length, 4096);
    assert.equal(reply.sequence_id, sequence_id);
    assertLabelled(reply);
  }
});

test('GetEntropy returns one byte and one mebibyte', async () => {
  for (const bytes_needed of [1, 1 << 20]) {
    const reply = await unary(entropy, 'GetEntropy', { bytes_needed });
    assert.equal(reply.data.length, bytes_needed);
  }
});

test('SubscribeEntropy sends whole messages, a shorter last one, and ends', async () => {
  const request = { bytes_per_message: 1000, total_bytes: '3500', sequence_id: INT64_MIN };
  const replies = await all(entropy.SubscribeEntropy(request, key()));
  assert.deepEqual(lengths(replies), [1000, 1000, 1000, 500]);
  assert.deepEqual(numbers(replies), Array(4).fill(INT64_MIN));
  replies.forEach(assertLabelled);
});

test('SubscribeEntropy without a total goes on until the client cancels', async () => {
  const stream = entropy.SubscribeEntropy({ bytes_per_message: 64 }, key());
  const replies = [];
  await assert.rejects(
    async () => {
      for await (const reply of stream) {
        replies.push(reply);
        if (replies.length === 5) stream.cancel();
      }
    },
    { code: status.CANCELLED },
  );
  assert.deepEqual(new Set(lengths(replies)), new Set([64]));
});

for (const [name, client] of [['qrng.v1', entropy], ['qr_entropy', qrEntropy]]) {
  test(`StreamEntropy of ${name} answers every request in order`, async () => {
    const requests = [
      { bytes_needed: 1, sequence_id: INT64_MAX },
      { bytes_needed: 4096, sequence_id: INT64_MIN },
      { bytes_needed: 17, sequence_id: '7' },
      { bytes_needed: 300, sequence_id: '6' },
    ];
    const stream = client.StreamEntropy(key());
    requests.forEach((request) => stream.write(request));
    stream.end();
    const replies = await all(stream);
    assert.deepEqual(lengths(replies), requests.map((request) => request.bytes_needed));
    assert.deepEqual(numbers(replies), requests.map((request) => request.sequence_id));
  });
}

test('StreamEntropy waits for the next request as long as the stream is open', async () => {
  const stream = entropy.StreamEntropy(key());
  const answers = stream[Symbol.asyncIterator]();
  for (const bytes_needed of [10, 20, 30]) {
    stream.write({ bytes_needed });
    const { value } = await answers.next();
    assert.equal(value.data.length, bytes_needed);
    assertLabelled(value);
  }
  stream.end();
  assert.ok((await answers.next()).done);
});

test('the services already in the field answer their own clients', async () => {
  const theirs = await unary(qrEntropy, 'GetEntropy', { bytes_needed: 20480, sequence_id: INT64_MIN });
  assert.deepEqual(Object.keys(theirs), ['data', 'sequence_id', 'generation_timestamp_ns', 'device_id']);
  assert.equal(theirs.data.length, 20480);
  assert.equal(theirs.sequence_id, INT64_MIN);

  const random = await unary(quantumRng, 'GetRandomBytes', { num_bytes: 13312 });
  assert.equal(random.data.length, 13312);
  assert.equal(random.device_id, 'test-device');
  assert.equal(BigInt(random.timestamp), BigInt(theirs.generation_timestamp_ns) / 1000n);
});

test('every error of a request says in its trailers what it is', async () => {
  const refusals = [
    [{ bytes_needed: 0 }, key(), status.INVALID_ARGUMENT, 'INVALID_ARGUMENT'],
    [{ bytes_needed: -1 }, key(), status.INVALID_ARGUMENT, 'INVALID_ARGUMENT'],
    [{ bytes_needed: (1 << 20) + 1 }, key(), status.INVALID_ARGUMENT, 'INVALID_ARGUMENT'],
    [{ bytes_needed: 32 }, key('not-the-right-key-at-all'), status.UNAUTHENTICATED, 'INVALID_KEY'],
    [{ bytes_needed: 32, least_class: 'SOURCE_CLASS_QUANTUM' }, key(), status.FAILED_PRECONDITION, 'WEAKER_SOURCE'],
    [{ bytes_needed: 32, processing: 'PROCESSING_SHA256' }, key(), status.INVALID_ARGUMENT, 'INVALID_ARGUMENT'],
  ];
  for (const [request, metadata, code, reason] of refusals) {
    const isAsTold = (error) => {
      assert.equal(error.code, code);
      assert.deepEqual(errorInfo(error), { reason, domain: 'qrng' });
      return true;
    };
    await assert.rejects(unary(entropy, 'GetEntropy', request, metadata), isAsTold);
    const stream = entropy.StreamEntropy(metadata);
    stream.end(request);
    await assert.rejects(all(stream), isAsTold);
  }
});

test('GetStatus shows the pool and its collector', async () => {
  const reply = await unary(entropy, 'GetStatus', {});
  assert.equal(reply.state, 'STATE_HEALTHY');
  assert.deepEqual(
    reply.collectors.map((collector) => collector.collector_id),
    [process.env.COLLECTOR_ID],
  );
  assert.equal(
    BigInt(reply.accounting.stored_bytes),
    BigInt(reply.accounting.served_bytes) + BigInt(reply.accounting.pooled_bytes),
  );
});
