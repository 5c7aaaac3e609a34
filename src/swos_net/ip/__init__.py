"""IP decisions that need no link and no endpoint: routes, fragments, path MTU."""
