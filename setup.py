"""setup.cfg holds the metadata; only the C module needs code (setup.cfg ignores cffi_modules)."""

from setuptools import setup

setup(cffi_modules=["vhost/build_dataplane.py:ffibuilder"])
