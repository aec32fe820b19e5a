//! Who leads; written next.
