"""The source server: one source, served directly over gRPC.

Idea: no pool, no queue, no chunk. Each request is answered by bytes that were measured after it arrived, by the source
itself, which is read for one request at a time, in the order in which they came. What the collector does for its
sources is done here too: their tests, their quarantine, their pace. `tap` is the source as a server sees it, `calls`
what all calls have in common, `service` and `compat` translate, `app` puts it together.
"""

import os

# grpc's core writes what a peer says when it closes a connection to standard error, unless told
# otherwise before it is first imported. A source may itself be a client of a stranger's server.
os.environ["GRPC_VERBOSITY"] = "NONE"
os.environ.pop("GRPC_TRACE", None)
