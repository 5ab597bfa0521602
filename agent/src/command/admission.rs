//! Whether a command may be asked: granted by local files, and proved where they want it.

use millrace_tags::Command;
use millrace_uplink::command::{is_signed, is_token};
use millrace_uplink::{Secret, SecretSource};

use crate::config::Local;
use crate::device::chain;

/// Operations that a clock which may be wrong cannot make dangerous.
const SAFE_WITHOUT_CLOCK: [&str; 3] = ["read", "status", "ledger"];

/// How far ahead a signed command may expire: its id is remembered for so long, so that it cannot be sent a second time.
const SIGNED_AHEAD_MS: i64 = super::journal::ID_LIFE_MS;

/// Whether an operation may run although `expires` cannot be checked.
pub(super) fn is_safe_without_clock(op: &str) -> bool {
    SAFE_WITHOUT_CLOCK.contains(&op)
}

/// What local files say of commands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Admission {
    commands: Vec<String>,
    key: Option<SecretSource>,
    token: Option<SecretSource>,
}

impl Admission {
    /// As `[local]` says.
    pub(crate) fn new(local: &Local) -> Self {
        Self {
            commands: local.commands.clone(),
            key: local.command_key.clone(),
            token: local.command_token.clone(),
        }
    }

    /// Whether the operation is granted.
    ///
    /// # Errors
    /// Says what would grant it.
    pub(super) fn grants(&self, op: &str) -> Result<(), String> {
        if self.commands.iter().any(|granted| granted == op) {
            return Ok(());
        }
        Err(format!(
            "`{op}` is not granted on this gateway; [local] commands in its own configuration grants it"
        ))
    }

    /// Whether the command brings what local files want of each. Their secrets are read each time: a new one counts at
    /// once.
    ///
    /// # Errors
    /// Says what is missing, and nothing of the secrets.
    pub(super) fn prove(&self, command: &Command, now_ms: Option<i64>) -> Result<(), String> {
        let proof = &command.proof;
        let load = |source: &SecretSource, key: &str| -> Result<Secret, String> {
            source.load().map_err(|error| {
                tracing::error!(error = %chain(&error), "the secret of commands cannot be read");
                format!("the secret of [local] {key} cannot be read on this gateway")
            })
        };
        if let Some(source) = &self.token {
            let secret = load(source, "command_token_file")?;
            let token = proof.token.as_deref();
            // A format without a place for a token is proved by its signature.
            let signed = self.key.is_some() && proof.sig.is_some();
            if !signed && !token.is_some_and(|token| is_token(&secret, token)) {
                return Err("it does not carry the token of this gateway".to_owned());
            }
        }
        let Some(source) = &self.key else {
            return Ok(());
        };
        if self.token.is_some() && proof.sig.is_none() {
            // The token was right.
            return Ok(());
        }
        let key = load(source, "command_key_file")?;
        let Some(sig) = &proof.sig else {
            return Err("it is not signed: `sig` is missing".to_owned());
        };
        if !is_signed(&key, &proof.signed, sig) {
            return Err(
                "its `sig` does not fit: HMAC-SHA256 over id|op|args|expires as they stand in the message"
                    .to_owned(),
            );
        }
        if command.fleeting || command.id.contains('|') {
            return Err("a signed command needs an `id` of its own, without |".to_owned());
        }
        if proof.signed.ends_with('|') {
            return Err("a signed command needs `expires`".to_owned());
        }
        match (command.expires, now_ms) {
            (Some(expires), Some(now)) if expires > now.saturating_add(SIGNED_AHEAD_MS) => {
                Err("`expires` of a signed command is at most seven days ahead".to_owned())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Option<SecretSource> {
        Some(SecretSource::Given(Secret::new(text)))
    }

    /// Signed with `key` by openssl: printf %s 'c-1|status||100' | openssl dgst -sha256 -hmac key
    fn command(sig: Option<&str>, token: Option<&str>) -> Command {
        let mut command = Command {
            id: "c-1".to_owned(),
            op: "status".to_owned(),
            expires: Some(100),
            ..Command::default()
        };
        command.proof.signed = "c-1|status||100".to_owned();
        command.proof.sig = sig.map(str::to_owned);
        command.proof.token = token.map(str::to_owned);
        command
    }

    const SIG: &str = "d3789e721fa99b6be396f4553fbba08db31c9711b87fc62eff3b550494ed8964";

    #[test]
    fn a_key_wants_a_signature_that_fits_and_expires() {
        let keyed = Admission {
            key: secret("key"),
            ..Admission::default()
        };
        let why = |command: &Command| keyed.prove(command, Some(50)).unwrap_err();
        assert_eq!(keyed.prove(&command(Some(SIG), None), Some(50)), Ok(()));
        assert!(why(&command(None, Some("key"))).contains("not signed"));
        let mut forged = command(Some(SIG), None);
        forged.proof.signed = "c-2|status||100".to_owned();
        assert!(why(&forged).contains("does not fit"));
        let mut fleeting = command(Some(SIG), None);
        fleeting.fleeting = true;
        assert!(why(&fleeting).contains("`id` of its own"));
        let mut far = command(Some(SIG), None);
        far.expires = Some(SIGNED_AHEAD_MS + 51);
        assert!(why(&far).contains("seven days"));
        assert_eq!(
            Admission::default().prove(&command(None, None), None),
            Ok(())
        );
    }

    #[test]
    fn a_token_or_a_signature_where_both_are_wanted() {
        let both = Admission {
            key: secret("key"),
            token: secret("t0ken"),
            ..Admission::default()
        };
        assert_eq!(both.prove(&command(None, Some("t0ken")), None), Ok(()));
        assert_eq!(both.prove(&command(Some(SIG), None), None), Ok(()));
        for (sig, token) in [
            (None, None),
            (None, Some("token")),
            (Some("00"), Some("t0ken")),
        ] {
            assert!(
                both.prove(&command(sig, token), None).is_err(),
                "{sig:?} {token:?}"
            );
        }
    }

    #[test]
    fn a_key_that_cannot_be_read_admits_nothing() {
        let keyed = Admission {
            key: Some(SecretSource::File("does/not/exist".into())),
            ..Admission::default()
        };
        let why = keyed.prove(&command(Some(SIG), None), None).unwrap_err();
        assert!(why.contains("cannot be read"), "{why}");
    }
}
