"""Present an assertion to a token endpoint: `presenting.py PLUGIN SETTINGS FORM` in a process."""

import asyncio
import json
import sys
from importlib import import_module

import msgspec
import structlog

from helios_core import Secret
from tests.plugins.smart_auth.issuing import Server


async def main(plugin_name, settings_json, form_json):
    plugin = import_module(plugin_name)
    fields = json.loads(settings_json)
    if "database_url" in fields:
        fields["database_url"] = Secret(fields["database_url"])
    backend = plugin.helios_job_store()
    async with backend.open(backend.settings(**fields)) as store:
        server = Server(store)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        answers = await asyncio.gather(*(server.post(json.loads(form_json)) for _ in range(5)))
        sys.stdout.write(msgspec.json.encode([status for status, _ in answers]).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(main(*sys.argv[1:]))
