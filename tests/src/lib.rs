//! System tests: real processes around a real PostgreSQL. They are in `suites/`, one program per subject; what they stand
//! on is `harness/`. This library is empty: cargo wants a package to have one target that is no test.
