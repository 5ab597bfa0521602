//! What becomes of an external key once the enrolment has proved itself.

use std::io::{Seek, Write};
use std::path::Path;

use millrace_uplink::{Secret, SecretSource};

use crate::config::Brought;

use super::store::{Store, StoreError};

/// What tells a key that was spent from a new one.
pub(super) fn fingerprint(key: &Secret) -> String {
    millrace_uplink::bootstrap::fingerprint(key)
}

/// A one-time key is overwritten and removed. A static one moves to where nobody but the service reads it; a file that
/// cannot be removed (a credential of systemd, a read-only /etc) stays, and that is said.
pub(super) fn put_away(
    source: &SecretSource,
    one_time: bool,
    store: &Store,
) -> Result<(), StoreError> {
    let SecretSource::File(path) = source else {
        return Ok(());
    };
    let Ok(key) = source.load() else {
        // It was put away before.
        return Ok(());
    };
    if !one_time {
        store.write_secret(&store.kept_key(), &key)?;
    }
    if let Err(error) = destroy(path) {
        let what = match one_time {
            true => "a one-time key that was used",
            false => "an external key that was moved into the data directory",
        };
        tracing::warn!(path = %path.display(), %error, "cannot remove {what}; remove it by hand");
    }
    Ok(())
}

/// What a claim says is kept without its token, a static token too, and the file is destroyed.
pub(super) fn put_claim_away(
    claim: &Brought,
    static_key: Option<&SecretSource>,
    store: &Store,
) -> Result<(), StoreError> {
    store.keep_claim(&claim.rest)?;
    if let Some(key) = static_key.and_then(|key| key.load().ok()) {
        store.write_secret(&store.kept_key(), &key)?;
    }
    if let Err(error) = destroy(&claim.path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %claim.path.display(), %error, "cannot remove a claim that was used; remove it by hand");
    }
    Ok(())
}

/// Overwrites and removes a file. What a flash disk makes of the overwriting is its own affair.
fn destroy(path: &Path) -> std::io::Result<()> {
    if let Ok(mut file) = std::fs::File::options().write(true).open(path) {
        let bytes = file.metadata()?.len().min(1 << 16) as usize;
        file.rewind()?;
        file.write_all(&vec![0; bytes])?;
        file.sync_all()?;
    }
    std::fs::remove_file(path)
}
