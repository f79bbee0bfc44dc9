"""From a plugin to an accepted batch: sessions, demand, the host that a broker talks to, the check of its records."""
