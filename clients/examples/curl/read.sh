#!/usr/bin/env bash
# Random bytes with curl, in three encodings. Usage: read.sh [URL]
set -euo pipefail
url=${1:-http://127.0.0.1:8080}

random() {
  printf 'Authorization: Bearer %s' "$QR_GRPC_API_KEY" |
    curl --fail --silent --show-error --max-time 10 --header @- "$url/api/random?$1"
}

random 'bytes=32' && echo
random 'bytes=32&encoding=base64' && echo
random 'bytes=1024&encoding=raw' | wc -c
