//! The simulation: the product's own decisions under seeded schedules in virtual time.
