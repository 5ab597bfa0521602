//! Model bundles, windows, scores and events.
