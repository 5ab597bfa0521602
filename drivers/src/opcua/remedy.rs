//! Whether somebody has seen to what a refusal hangs on: the files that say whom we trust, and who we are.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::settings::{Auth, Settings};

/// From one look at the files to the next.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Where certificates lie, below the directory of keys; a directory changes when a file comes or goes.
const DIRECTORIES: [&str; 8] = [
    "own",
    "trusted",
    "trusted/certs",
    "trusted/crl",
    "issuers",
    "issuers/certs",
    "issuers/crl",
    "private",
];

/// Until one of the files is another one than now.
pub(super) async fn changed(settings: &Settings) {
    let paths = paths(settings);
    let before: Vec<_> = paths.iter().map(|path| look(path)).collect();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        if paths
            .iter()
            .map(|path| look(path))
            .ne(before.iter().copied())
        {
            return;
        }
    }
}

fn look(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn paths(settings: &Settings) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = DIRECTORIES
        .iter()
        .map(|directory| settings.pki_dir.join(directory))
        .collect();
    paths.extend(settings.server_cert_file.clone());
    match &settings.auth {
        Auth::Anonymous => {}
        Auth::UserName { password_file, .. } => paths.push(password_file.clone()),
        Auth::Certificate {
            cert_file,
            key_file,
        } => paths.extend([cert_file.clone(), key_file.clone()]),
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_new_password_and_a_pinned_certificate_are_noticed() {
        let dir = tempfile::tempdir().expect("directory");
        let password_file = dir.path().join("password");
        std::fs::write(&password_file, "old").expect("written");
        let pki = dir.path().join("pki");
        std::fs::create_dir_all(pki.join("trusted")).expect("made");
        let mut settings = Settings::new("press", "opc.tcp://plc", &pki);
        settings.auth = Auth::UserName {
            user: "gateway".to_owned(),
            password_file: password_file.clone(),
        };
        let seen = |what: &'static str, settings: Settings| async move {
            let waited = tokio::time::timeout(Duration::from_secs(10), changed(&settings));
            assert_eq!(waited.await.is_ok(), what != "nothing", "{what}");
        };
        seen("nothing", settings.clone()).await;

        let noticed = tokio::spawn(seen("password", settings.clone()));
        tokio::task::yield_now().await;
        std::fs::write(&password_file, "another").expect("written");
        noticed.await.expect("noticed");

        let noticed = tokio::spawn(seen("certificate", settings));
        tokio::task::yield_now().await;
        // A clock of files that ticks in milliseconds must have moved.
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(pki.join("trusted/new.der"), "certificate").expect("written");
        noticed.await.expect("noticed");
    }
}
