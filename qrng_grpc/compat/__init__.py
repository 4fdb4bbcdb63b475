"""Generated stubs of services already in the field.

Only servers import them: a client process may hold its own copy of the same package.
"""
