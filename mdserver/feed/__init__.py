"""From a plugin to an accepted batch: sessions, demand, the host that a broker uses, the check of its records."""
