//! Storage at page servers, with a made-up page server and made-up safekeepers around a real PostgreSQL.

mod support;

/// The parts.
mod neon {
    mod faults;
    mod places;
    mod safekeepers;
    mod server;
    mod starts;
    mod world;
}
