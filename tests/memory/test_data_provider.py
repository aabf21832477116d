from tests.testing.on_memory import OnMemoryProvider


class TestMemoryDataProvider(OnMemoryProvider):
    pass
