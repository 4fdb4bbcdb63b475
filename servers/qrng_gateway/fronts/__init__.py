"""The ways in: gRPC, services already in the field, REST, health and reflection. They translate and decide nothing."""
