//! Why a good connection is left: the endpoint to come back to answers again, or a certificate or password file has changed.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::connect;
use crate::endpoint::Endpoint;
use crate::secret::SecretSource;
use crate::session::SessionSettings;
use crate::tls;
use crate::token::PasswordSource;

/// How often files are looked at, and the endpoint to come back to first.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// While that endpoint listens and does not take us, it is asked ever more rarely.
const ASK_LONGEST: Duration = Duration::from_secs(3600);

/// What is remembered from one connection to the next.
#[derive(Debug)]
pub(super) struct Recall {
    ask: Duration,
}

impl Default for Recall {
    fn default() -> Self {
        Self { ask: LOOK_INTERVAL }
    }
}

/// Why the connection is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The endpoint to come back to answers again.
    Home,
    /// A file is another one.
    Files,
}

/// What a file looked like.
type Look = Option<(SystemTime, u64)>;

/// Certificates, key and password as they were when a connection began.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Files(Vec<Look>);

impl Files {
    pub(super) fn of(settings: &SessionSettings) -> Self {
        let tls = &settings.tls;
        let password = match &settings.password {
            Some(PasswordSource::Secret(SecretSource::File(path))) => Some(path.clone()),
            _ => None,
        };
        let proxy = settings.proxy.as_ref();
        let proxy = proxy.and_then(|proxy| match &proxy.password {
            Some(SecretSource::File(path)) => Some(path.clone()),
            Some(SecretSource::Given(_)) | None => None,
        });
        let paths = [
            tls.ca_file.clone(),
            tls.cert_file.clone(),
            tls.key_file.clone(),
            password,
            proxy,
        ];
        let looks = paths.iter().flatten().map(|path| look(path));
        Self(looks.collect())
    }
}

fn look(path: &Path) -> Look {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// Whether a new connection could be made of the files as they are: a half-written pair costs nobody a good one.
fn usable(settings: &SessionSettings) -> bool {
    let tls = !settings.endpoint.scheme.is_tls() || tls::client_config(&settings.tls).is_ok();
    let password = settings.password.as_ref().is_none_or(|p| p.load().is_ok());
    tls && password
}

impl Recall {
    /// Waits until there is a reason to leave a connection that began with these files; `away`: to another endpoint
    /// than this one, which is to be asked again.
    pub(super) async fn wait(
        &mut self,
        settings: &SessionSettings,
        mut files: Files,
        away: Option<Endpoint>,
    ) -> Why {
        if away.is_none() {
            self.ask = LOOK_INTERVAL;
        }
        let mut waited = Duration::ZERO;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            waited += LOOK_INTERVAL;
            let now = Files::of(settings);
            if now != files && usable(settings) {
                return Why::Files;
            }
            if now != files {
                tracing::warn!("a certificate or password file has changed and cannot be used yet");
                files = now;
            }
            if let Some(home) = away.as_ref().filter(|_| waited >= self.ask) {
                waited = Duration::ZERO;
                if connect::answers(settings, home).await {
                    self.ask = (self.ask * 2).min(ASK_LONGEST);
                    return Why::Home;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(password: &Path) -> SessionSettings {
        let mut settings = SessionSettings::new("mqtt://127.0.0.1:9".parse().unwrap(), "gw");
        settings.password = Some(SecretSource::File(password.to_owned()).into());
        settings
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_password_recalls_once_it_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "old\n").unwrap();
        let settings = settings(&file);
        let files = Files::of(&settings);
        let mut recall = Recall::default();
        let mut waiting = std::pin::pin!(recall.wait(&settings, files, None));
        let pause = Duration::from_secs(300);
        let patient = tokio::time::timeout(pause, &mut waiting).await;
        assert!(patient.is_err(), "nothing has changed");
        std::fs::write(&file, "").unwrap();
        let patient = tokio::time::timeout(pause, &mut waiting).await;
        assert!(patient.is_err(), "an empty one cannot be used");
        std::fs::write(&file, "another\n").unwrap();
        assert_eq!(waiting.await, Why::Files);
    }

    #[tokio::test]
    async fn the_first_endpoint_recalls_when_it_listens_again_and_ever_more_rarely() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let settings =
            SessionSettings::new(format!("mqtt://127.0.0.1:{port}").parse().unwrap(), "gw");
        assert!(connect::answers(&settings, &settings.endpoint).await);
        drop(listener);
        assert!(!connect::answers(&settings, &settings.endpoint).await);
        let mut recall = Recall {
            ask: Duration::from_secs(120),
        };
        // Back at the first one, the next absence begins anew.
        let files = Files::of(&settings);
        let none = tokio::time::timeout(
            Duration::from_millis(10),
            recall.wait(&settings, files, None),
        );
        assert!(none.await.is_err());
        assert_eq!(recall.ask, LOOK_INTERVAL);
    }
}
