"""The collector: reads sources beside them, and pushes signed chunks to a gateway's pool.

Idea: `fetch` reads blocks at a pace of its own, `queue` keeps them within bounds and gives each an
identity when it is first sent, `push` sends them until the gateway has disposed of them. Information
goes one way: of a gateway's reply only the status code and one count are read. `app` puts it together.
"""

import os

# grpc's core writes what a peer says when it closes a connection to standard error, unless told
# otherwise before it is first imported.
os.environ["GRPC_VERBOSITY"] = "NONE"
os.environ.pop("GRPC_TRACE", None)
