"""Requests as a provider sees them that overlooks something."""

import msgspec


def asking(view, **changes):
    """Return the view with another request."""
    request = msgspec.structs.replace(view.request, **changes)
    return msgspec.structs.replace(view, request=request)
