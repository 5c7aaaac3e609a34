"""The lab: guests, emulators and network namespaces that the demo, the tests and the benchmarks boot.

Standard library only, so that it runs before the project's own environment exists.
Read packages (what is fetched), guest_image (what boots), qemu (how it is started) in that order.
"""
