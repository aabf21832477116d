"""Views of a store, and which of them damage changes without a word."""

from helios_core import BackendError, ConfigurationError, Delete, Level, Put
from helios_core.testing import corpus, take_snapshot


async def fill(provider):
    """Store patients and what is about them, change and delete some; return an instant between."""

    async def write(*changes):
        await provider.write(corpus.TENANT, corpus.VERSION, changes)

    def puts(first, end, note):
        return [
            Put(resource=each)
            for n in range(first, end)
            for each in (
                corpus.patient(f"p{n}", note=note),
                corpus.observation(f"o{n}", f"p{n}"),
                corpus.observation(f"q{n}", f"p{n}"),
            )
        ]

    for start in range(0, 300, 50):
        await write(*puts(start, start + 50, "x" * (start * 7 % 900)))
    between = await provider.transaction_time()
    await write(*puts(0, 30, "changed"))
    await write(*(Delete(resource_type="Observation", id=f"o{n}") for n in range(40, 60)))
    await write(*puts(300, 330, "new"))
    return between


async def views_of(provider, between):
    now = await provider.transaction_time()
    some = {f"p{n}" for n in range(0, 330, 3)}
    return {
        "system": corpus.view(now),
        "patient": corpus.view(now, corpus.request(level=Level.PATIENT)),
        "since": corpus.view(now, corpus.request(since=between)),
        "until": corpus.view(now, corpus.request(until=between)),
        "before": corpus.view(between),
        "group": corpus.view(now, corpus.request(level=Level.GROUP), patients=some),
    }


async def read(provider, view, batch_bytes):
    snapshot = await take_snapshot(provider, view, batch_bytes=batch_bytes)
    return sorted(snapshot.lines), snapshot.deleted, snapshot.damaged


async def unnoticed(opened, views, shown, batch_bytes):
    """Return which views of a store are not what they were, without a word about it."""
    silent = []
    try:
        async with opened as provider:
            for name, view in views.items():
                try:
                    lines, deleted, damaged = await read(provider, view, batch_bytes)
                except BackendError:
                    continue
                expected, gone, _ = shown[name]
                if (lines, deleted) != (expected, gone) and not damaged:
                    silent.append((name, len(expected) - len(lines), len(gone) - len(deleted)))
    except (BackendError, ConfigurationError):
        pass
    return silent
