// A gateway as a Node program sees it: protos loaded from their folder, calls as promises and arrays.
//
// 64-bit numbers are strings, since JavaScript's numbers cannot hold them; bytes are Buffers.
// Environment: QR_GRPC_SERVER_ADDRESS, QR_GRPC_API_KEY, PROTOS (the folder protos/).
import { credentials, loadPackageDefinition, Metadata } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import protobuf from 'protobufjs';

const { QR_GRPC_SERVER_ADDRESS, QR_GRPC_API_KEY, PROTOS } = process.env;

const files = ['v1/entropy', 'compat/qr_entropy', 'compat/quantum_rng'].map((name) => `qrng_grpc/${name}.proto`);
const { qrng, qr_entropy } = loadPackageDefinition(
  loadSync(files, { includeDirs: [PROTOS], keepCase: true, longs: String, enums: String, defaults: true }),
);

const open = (Service) => new Service(QR_GRPC_SERVER_ADDRESS, credentials.createInsecure());

export const entropy = open(qrng.v1.EntropyService);
export const qrEntropy = open(qr_entropy.EntropyService);
export const quantumRng = open(qrng.QuantumRNG);

export function key(text = QR_GRPC_API_KEY) {
  const metadata = new Metadata();
  metadata.set('api-key', text);
  return metadata;
}

// Calls a unary method; rejects with the error.
export function unary(client, method, request, metadata = key()) {
  return new Promise((resolve, reject) => {
    client[method](request, metadata, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

// Reads a stream to its end; throws the error that ends it.
export async function all(stream) {
  const replies = [];
  for await (const reply of stream) replies.push(reply);
  return replies;
}

const { root } = protobuf.parse(
  `
  syntax = "proto3";
  package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; }
  `,
  { keepCase: true },
);

// Returns the one ErrorInfo in the trailers of an error.
export function errorInfo(error) {
  const [serialised] = error.metadata.get('grpc-status-details-bin');
  const { details } = root.lookupType('google.rpc.Status').decode(serialised);
  const infos = details.filter((detail) => detail.type_url === 'type.googleapis.com/google.rpc.ErrorInfo');
  if (infos.length !== 1) throw new Error(`${infos.length} ErrorInfo instead of one`);
  const { reason, domain } = root.lookupType('google.rpc.ErrorInfo').decode(infos[0].value);
  return { reason, domain };
}
