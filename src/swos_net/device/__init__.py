"""Frame sources and sinks, all behind `device.base.Device`."""
