//! The sled-backed store-and-forward log.
