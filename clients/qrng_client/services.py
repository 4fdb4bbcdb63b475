"""Services that are known: names for settings, and nothing else.

Idea: a server is described by settings alone. What several users would all have to find out, the paths and
field numbers of a service in the field, stands here under a name, as the very settings they would have to make.

    qrng.v1      this project's own service; replies repeat the request's number and state their class
    qr_entropy   the service most clients in the field speak; replies repeat the request's number
    qrng         a laboratory's service, unary only; its field 2 is a time and no echo
    google-kms   Google Cloud KMS, GenerateRandomBytes: 8 to 1024 bytes a call. Its field 1 is the location, which goes
                 into grpc_request_prefix
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SERVICES: Mapping[str, Mapping[str, Any]] = {
    "qrng.v1": {
        "grpc_method_path": "/qrng.v1.EntropyService/GetEntropy",
        "grpc_stream_method_path": "/qrng.v1.EntropyService/StreamEntropy",
        "grpc_request_echo_field": 2,
        "grpc_reply_echo_field": 2,
        "grpc_request_class_field": 3,
        "grpc_reply_class_field": 5,
    },
    "qr_entropy": {
        "grpc_method_path": "/qr_entropy.EntropyService/GetEntropy",
        "grpc_stream_method_path": "/qr_entropy.EntropyService/StreamEntropy",
        "grpc_request_echo_field": 2,
        "grpc_reply_echo_field": 2,
    },
    "qrng": {
        "grpc_method_path": "/qrng.QuantumRNG/GetRandomBytes",
        "grpc_stream_method_path": "",
    },
    "google-kms": {
        "grpc_method_path": "/google.cloud.kms.v1.KeyManagementService/GenerateRandomBytes",
        "grpc_stream_method_path": "",
        "grpc_count_field": 2,
        "grpc_min_request_bytes": 8,
        "grpc_max_request_bytes": 1024,
        "grpc_tls": True,
    },
}
"""The settings a service stands for, by its name."""
