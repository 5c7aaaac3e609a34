"""The option that rewrites the table of goodput."""


def pytest_addoption(parser):
    parser.addoption("--update-snapshot", action="store_true", help="rewrite tests/matrix/goodput.txt with what this run measures")
