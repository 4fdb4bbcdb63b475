"""The gateway: takes signed chunks from collectors and gives every byte to one client.

Idea: two gRPC listeners and one for REST, a pool between them. Chunks come in through `push_service`
and `ingest`, which verify them; bytes leave through `dispenser`, the one domain call behind
`service` (gRPC), `compat` (gRPC services already in the field) and `rest`. `app` puts it together.
"""
