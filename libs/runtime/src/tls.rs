//! The one crypto provider of the process.

/// Installs aws-lc-rs for every TLS user of the process. Call it first in `main`: with a second provider compiled in
/// by any dependency, rustls would panic at its first use otherwise.
pub fn install_provider() {
    // An error means that it is installed already, which is what is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
