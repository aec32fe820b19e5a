//! What can be done to a fleet from outside: its processes, its links, its clocks, its database.
