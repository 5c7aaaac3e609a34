"""The stack core: joins the protocols to interfaces and endpoints; still sans-IO."""
