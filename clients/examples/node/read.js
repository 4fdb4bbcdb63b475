// Random bytes in Node: one reply, a short stream, a conversation.
const path = require('node:path');
const { promisify } = require('node:util');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const definition = protoLoader.loadSync('qrng_grpc/v1/entropy.proto', {
  includeDirs: [path.join(__dirname, '../../../protos')],
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
});
const { EntropyService } = grpc.loadPackageDefinition(definition).qrng.v1;

const address = process.env.QR_GRPC_SERVER_ADDRESS || 'localhost:50051';
const client = new EntropyService(address, grpc.credentials.createInsecure());
const key = new grpc.Metadata();
key.set('api-key', process.env.QR_GRPC_API_KEY || '');
const inTime = () => ({ deadline: Date.now() + 5000 });

async function main() {
  const getEntropy = promisify(client.GetEntropy.bind(client));
  const reply = await getEntropy({ bytes_needed: 32 }, key, inTime());
  console.log(reply.data.toString('hex'), reply.source_class);

  for await (const message of client.SubscribeEntropy({ bytes_per_message: 1024, total_bytes: 4096 }, key, inTime())) {
    console.log(`${message.data.length} bytes of ${message.device_id}`);
  }

  const conversation = client.StreamEntropy(key, inTime());
  for (const number of ['1', '2', '3']) {
    conversation.write({ bytes_needed: 16, sequence_id: number });
  }
  conversation.end();
  for await (const answer of conversation) {
    console.log(`answer ${answer.sequence_id}: ${answer.data.length} bytes`);
  }
}

main()
  .catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  })
  .finally(() => client.close());
