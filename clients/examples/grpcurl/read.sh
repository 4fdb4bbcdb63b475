#!/usr/bin/env bash
# Random bytes with grpcurl: one reply, a short stream, a conversation.
set -euo pipefail
address=${QR_GRPC_SERVER_ADDRESS:-localhost:50051}

call() {
  grpcurl -plaintext -max-time 10 -expand-headers -H 'api-key: ${QR_GRPC_API_KEY}' -d "$2" "$address" \
    "qrng.v1.EntropyService/$1"
}

grpcurl -plaintext "$address" list
call GetEntropy '{"bytes_needed": 32}'
call SubscribeEntropy '{"bytes_per_message": 8, "total_bytes": 32}'
call StreamEntropy '{"bytes_needed": 8, "sequence_id": 1} {"bytes_needed": 8, "sequence_id": 2}'
