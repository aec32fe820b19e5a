//! What this process knows about configurations, so that one that is in effect costs nothing a second time.

use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug, Default)]
struct Texts {
    loaded: Option<String>,
    checked: Option<String>,
}

/// Texts of the agent's configuration file. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Known(Arc<Mutex<Texts>>);

impl Known {
    fn with<T>(&self, change: impl FnOnce(&mut Texts) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The running server has read this text; none: that is not known.
    pub(super) fn loaded(&self, text: Option<String>) {
        self.with(|texts| texts.loaded = text);
    }

    pub(super) fn is_loaded(&self, text: &str) -> bool {
        self.with(|texts| texts.loaded.as_deref() == Some(text))
    }

    /// The server program has nothing against this text.
    pub(super) fn checked(&self, text: String) {
        self.with(|texts| texts.checked = Some(text));
    }

    pub(super) fn is_checked(&self, text: &str) -> bool {
        self.with(|texts| texts.checked.as_deref() == Some(text))
    }
}
