"""How the gateway does, looked at from outside: status and metrics."""
