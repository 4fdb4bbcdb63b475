"""Generated stubs of `package qrng.v1` (see protos/qrng_grpc/v1). Never edited; made by `make protos`."""
