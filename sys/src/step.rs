//! Named steps of work that a crash may cut off anywhere. The daemon's tests stop it at each of them; a release
//! build watches none.

#[cfg(debug_assertions)]
static WATCHER: std::sync::OnceLock<fn(&'static str)> = std::sync::OnceLock::new();

/// Has `watcher` called with the name of every step that is reached from now on. Only the first watcher counts; a
/// release build calls none.
pub fn watch(watcher: fn(&'static str)) {
    #[cfg(debug_assertions)]
    WATCHER.get_or_init(|| watcher);
    #[cfg(not(debug_assertions))]
    let _ = watcher;
}

/// Work has come to the step `name`.
#[inline]
pub fn reached(name: &'static str) {
    #[cfg(debug_assertions)]
    if let Some(watcher) = WATCHER.get() {
        watcher(name);
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
