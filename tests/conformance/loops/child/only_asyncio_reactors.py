"""A pytest plugin for Twisted's tests: of the reactors that they are made for only the one on asyncio."""


def pytest_configure(config):
    from twisted.internet.test.reactormixins import ReactorBuilder

    ReactorBuilder._reactors = [name for name in ReactorBuilder._reactors if "Asyncio" in name]
