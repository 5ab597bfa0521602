//! A claim: what an installer brings for the first contact, a file that holds nothing else. It is `[bootstrap]` with the
//! token itself in it, so no message ever shows a value of it, whatever was mixed up: a token in the place of the
//! fingerprint, a line that was cut off.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_uplink::bootstrap::DpsKey;
use millrace_uplink::{Proxy, ProxyAddress, Secret, SecretSource};

use super::{Bootstrap, SPREAD_MAX, ca_sha256, external_id, optional, read_table, url};
use crate::config::complaint::Complaint;
use crate::config::keys::{KeyDoc, Kind, SectionDoc};
use crate::config::problem::Problem;
use crate::config::report::Report;
use crate::config::section::Section;
use crate::config::tree::{self, Node};

/// A claim has some hundred bytes; what is larger is another file.
const CLAIM_BYTES_MAX: u64 = 64 * 1024;

/// First line of a claim that was used: version 1 of how it is kept.
const KEPT_FORMAT: &str = "# millrace-claim 1";

/// Longest name of an interface that the kernel takes.
const INTERFACE_CHARS_MAX: usize = 15;

/// The table of keys.
pub(crate) const CLAIM: SectionDoc = SectionDoc {
    heading: "a claim",
    keys: &[
        KeyDoc::new(
            "url",
            Kind::Form("a URL such as https://core.example/claim"),
            "The base URL, as in `[bootstrap]`.",
        )
        .required(),
        KeyDoc::new("token", Kind::Text, "The token, in quotes. It is never shown.").required(),
        KeyDoc::new(
            "kind",
            Kind::Choice(&["one-time", "static"]),
            "`one-time`: the token is good for one enrolment, and destroyed once that has proved itself. `static`: \
             it moves to `<data_dir>/secrets` then, and may stand in the claims of many gateways.",
        )
        .means("`one-time` for hmac-claim and est, else `static`"),
        KeyDoc::new(
            "ca_sha256",
            Kind::Form("64 hexadecimal digits"),
            "Trust the one authority with this SHA-256 of its certificate (DER), which the server must send along.",
        )
        .means("the authorities of the system are trusted"),
        KeyDoc::new(
            "provider",
            Kind::Choice(&["hmac-claim", "mainflux", "magistrala-proof", "est", "thingsboard"]),
            "How the core hands out credentials, as in `[bootstrap]`.",
        )
        .default("hmac-claim"),
        KeyDoc::new(
            "external_id",
            Kind::Form("a text, machine-id, mac:eth0 or serial"),
            "The gateway's name at the core, as in `[bootstrap]`.",
        )
        .means("`machine-id`"),
        KeyDoc::new(
            "uplink",
            Kind::Form("a table such as { url = \"mqtts://core.example\", profile = \"generic\" }"),
            "The uplink to make where the core sends credentials and no `[[uplink]]`.",
        ),
        KeyDoc::new(
            "spread",
            Kind::Duration {
                min: std::time::Duration::ZERO,
                max: SPREAD_MAX,
            },
            "What first requests are spread over, as in `[bootstrap]`.",
        )
        .default("10s"),
        KeyDoc::new(
            "proxy",
            Kind::Form("http://host:port or socks5://host:port"),
            "The way out for the first contact and renewals; one that wants no login.",
        ),
        KeyDoc::new(
            "interface",
            Kind::Form("the name of a network interface such as eth0"),
            "Hint: the interface that leads to the core. While the core cannot be reached, the status says \
             whether it is there, up, and has a cable. The address is the system's affair.",
        ),
    ],
};

/// Where settings came from, where an installer brought them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Brought {
    /// The file, which holds the token.
    pub(crate) path: PathBuf,
    /// What stays of it when the token goes: a text that [`Bootstrap::from_kept_claim`] reads.
    pub(crate) rest: String,
}

/// Why a file is no claim that can be used. No variant shows what is in the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    /// Look at the file's rights.
    #[error("it cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// It is something else.
    #[error("it has more than 64 KiB; expected a claim and nothing else")]
    TooLarge,
    /// Each of these is to be put right.
    #[error("{}", said(.0))]
    Wrong(Vec<Problem>),
}

/// Each problem in one sentence, with its line.
fn said(problems: &[Problem]) -> String {
    let sentence = |problem: &Problem| {
        let line = problem.place.line.map(|line| format!("line {line}: "));
        let hint = problem.hint.as_ref().map(|hint| format!(" ({hint})"));
        let (line, hint) = (line.unwrap_or_default(), hint.unwrap_or_default());
        format!("{line}{}{hint}", problem.message)
    };
    let sentences: Vec<String> = problems.iter().map(sentence).collect();
    sentences.join("; ")
}

impl Bootstrap {
    /// Reads the claim in a file.
    ///
    /// # Errors
    /// Every problem at once, without a value.
    pub(crate) fn from_claim(path: &Path) -> Result<Self, ClaimError> {
        let text = read(path)?;
        let (mut settings, token) = parse(path, &text, true)?;
        settings.external_key = token.map(SecretSource::Given);
        settings.brought = Some(Brought {
            path: path.to_owned(),
            rest: without_token(&text),
        });
        Ok(settings)
    }

    /// Reads what was kept of a claim that was used; a static token is in `key` now.
    ///
    /// # Errors
    /// Where it is not what this version wrote.
    pub(crate) fn from_kept_claim(path: &Path, key: &Path) -> Result<Self, ClaimError> {
        let text = read(path)?;
        if text.lines().next() != Some(KEPT_FORMAT) {
            let place = crate::config::place::Place::file(&Arc::from(path));
            let problem = Problem::new(place, "it is not what this version wrote");
            return Err(ClaimError::Wrong(vec![problem]));
        }
        let (mut settings, _) = parse(path, &text, false)?;
        settings.external_key = Some(SecretSource::File(key.to_owned()));
        Ok(settings)
    }
}

fn read(path: &Path) -> Result<String, ClaimError> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(CLAIM_BYTES_MAX + 1).read_to_string(&mut text)?;
    match text.len() as u64 > CLAIM_BYTES_MAX {
        true => Err(ClaimError::TooLarge),
        false => Ok(text),
    }
}

/// The settings without a key, and the token where there has to be one.
fn parse(
    path: &Path,
    text: &str,
    with_token: bool,
) -> Result<(Bootstrap, Option<Secret>), ClaimError> {
    let table = tree::parse(&Arc::from(path), text).map_err(|problem| {
        // The parser's own words may hold a piece of the file.
        let hint = "text stands in quotes, and each quote is closed";
        let problem = Problem::new(problem.place, "this is not TOML, or it was cut off").hint(hint);
        ClaimError::Wrong(vec![problem])
    })?;
    let report = Report::new(None);
    let section = Section::new(&table, &CLAIM, "", &report).quiet();
    section.finish(None);
    let settings = settings(&section);
    let token = with_token.then(|| token(&section)).flatten();
    let (problems, _, _) = report.into_parts();
    match settings {
        Some(settings) if problems.is_empty() => Ok((settings, token)),
        _ => Err(ClaimError::Wrong(problems)),
    }
}

fn token(section: &Section<'_>) -> Option<Secret> {
    let token = section.text("token")?.trim();
    if token.chars().any(|c| c.is_control() || c.is_whitespace()) {
        let said = "a text without blanks and line breaks is expected";
        section.complain("token", Complaint::new(said));
        return None;
    }
    Some(Secret::new(token))
}

fn settings(section: &Section<'_>) -> Option<Bootstrap> {
    let provider = section.choice("provider");
    let kind = optional(section, "kind", || section.choice("kind"));
    let url = section.form("url", url);
    let external_id = external_id(section);
    let ca_sha256 = ca_sha256(section);
    let spread = section.duration("spread");
    let uplink = read_table(
        section,
        "uplink",
        "a table of keys of [[uplink]] is expected",
    );
    let interface = optional(section, "interface", || {
        section.form("interface", interface)
    });
    let proxy = optional(section, "proxy", || section.form("proxy", proxy));
    let plain = section.node("url").and_then(Node::as_text);
    if provider == Some("est") && plain.is_some_and(|url| url.starts_with("http://")) {
        section.complain("url", Complaint::new("est asks over https:// only"));
    }
    let provider = provider?;
    Some(Bootstrap {
        provider,
        url: Some(url?),
        external_id: external_id?,
        external_key: None,
        claim: None,
        one_time: match kind? {
            Some(kind) => kind == "one-time",
            None => super::is_one_time(provider),
        },
        ca_file: None,
        ca_sha256: ca_sha256?,
        proxy: proxy?,
        generation: None,
        secure_key: None,
        id_scope: None,
        dps_key: DpsKey::Device,
        fleet: None,
        file: None,
        spread: spread?,
        uplink: uplink?,
        brought: None,
        interface: interface?,
    })
}

/// The address' own words are not used: they show it.
fn proxy(text: &str) -> Result<Proxy, Complaint> {
    let address = text.parse::<ProxyAddress>().map_err(|_| {
        Complaint::new("http://host:port or socks5://host:port is expected, without a login")
    })?;
    Ok(Proxy {
        address,
        username: None,
        password: None,
    })
}

fn interface(text: &str) -> Result<String, Complaint> {
    let known = |c: char| c.is_ascii_graphic() && c != '/';
    let fits = text.len() <= INTERFACE_CHARS_MAX && text.chars().all(known);
    match fits && !matches!(text, "." | "..") {
        true => Ok(text.to_owned()),
        false => Err(Complaint::new("the name of a network interface is expected").hint("ip link")),
    }
}

/// The claim as it is kept after its use.
fn without_token(text: &str) -> String {
    let mut document: toml_edit::DocumentMut = match text.parse() {
        Ok(document) => document,
        // It was read a moment ago.
        Err(_) => return String::new(),
    };
    // Whole, since a comment may hold what a person copied.
    document.remove("token");
    let mut rest = toml_edit::DocumentMut::new();
    for (key, item) in document.iter() {
        if let Some(value) = item.as_value() {
            let mut value = value.clone();
            value.decor_mut().clear();
            rest.insert(key, toml_edit::Item::Value(value));
        } else if let Some(table) = item.as_table() {
            rest.insert(
                key,
                toml_edit::Item::Value(table.clone().into_inline_table().into()),
            );
        }
    }
    format!("{KEPT_FORMAT}\n{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLANTED: &str = "pl4nted-token-0123456789";

    fn whole() -> String {
        format!(
            "# from the operator\nurl = \"https://core.example/claim\"\ntoken = \"{PLANTED}\" # {PLANTED}\n\
             kind = \"static\"\nca_sha256 = \"{}\"\nexternal_id = \"gw-1\"\ninterface = \"eth0\"\n\
             [uplink]\nurl = \"mqtts://core.example\" # {PLANTED}\n",
            "ab".repeat(32)
        )
    }

    fn claim(text: &str) -> Result<Bootstrap, ClaimError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("claim.toml");
        std::fs::write(&path, text).unwrap();
        Bootstrap::from_claim(&path)
    }

    fn refused(text: &str) -> String {
        let error = claim(text).unwrap_err().to_string();
        for part in [&PLANTED[..8], &PLANTED[8..16], &PLANTED[16..]] {
            assert!(!error.contains(part), "{error}");
        }
        error
    }

    #[test]
    fn a_claim_says_it_all() {
        let settings = claim(&whole()).unwrap();
        assert_eq!(settings.provider, "hmac-claim");
        assert!(!settings.one_time);
        assert_eq!(settings.ca_sha256, Some([0xab; 32]));
        assert_eq!(settings.interface.as_deref(), Some("eth0"));
        assert_eq!(settings.uplink["url"], "mqtts://core.example");
        assert!(!format!("{settings:?}").contains(PLANTED));
        let least = format!("url = \"https://core.example\"\ntoken = \"{PLANTED}\"");
        assert!(claim(&least).unwrap().one_time);
    }

    #[test]
    fn what_is_kept_of_a_claim_has_all_but_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let settings = claim(&whole()).unwrap();
        let rest = settings.brought.clone().unwrap().rest;
        assert!(!rest.contains(PLANTED), "{rest}");
        let (path, key) = (dir.path().join("claim.toml"), dir.path().join("key"));
        std::fs::write(&path, &rest).unwrap();
        let kept = Bootstrap::from_kept_claim(&path, &key).unwrap();
        let as_brought = Bootstrap {
            external_key: Some(SecretSource::File(key.clone())),
            brought: None,
            ..settings
        };
        assert_eq!(kept, as_brought);
        std::fs::write(&path, "url = \"https://core.example\"").unwrap();
        assert!(Bootstrap::from_kept_claim(&path, &key).is_err());
    }

    #[test]
    fn each_field_that_is_wrong_is_named() {
        let base = |lines: &str| format!("url = \"https://core.example\"\n{lines}\n");
        let token = format!("token = \"{PLANTED}\"\n");
        let cases = [
            (token.clone(), "url is missing"),
            (base(""), "token is missing"),
            (base("token = \"\""), "token does not fit"),
            (base("token = 0123456789"), "not TOML"),
            (base("token = 123456789"), "token does not fit"),
            (
                base(&format!("token = {PLANTED}")),
                "line 2: this is not TOML",
            ),
            (
                base(&format!("token = \"{PLANTED} {PLANTED}\"")),
                "without blanks",
            ),
            (
                base(&format!("{token}kind = \"{PLANTED}\"")),
                "kind does not fit; one-time or static",
            ),
            (
                base(&format!("{token}ca_sha256 = \"{PLANTED}\"")),
                "ca_sha256 does not fit; 64 hex",
            ),
            (
                base(&format!("{token}provider = \"{PLANTED}\"")),
                "provider does not fit",
            ),
            (
                base(&format!("{token}external_id = \"mac:\"")),
                "external_id does not fit",
            ),
            (
                base(&format!("{token}interface = \"a/{PLANTED}\"")),
                "interface does not fit",
            ),
            (
                base(&format!("{token}uplink = \"{PLANTED}\"")),
                "uplink does not fit",
            ),
            (
                base(&format!("{token}spread = \"{PLANTED}\"")),
                "spread does not fit",
            ),
            (
                base(&format!("{token}proxy = \"http://u:{PLANTED}@p:1\"")),
                "proxy does not fit",
            ),
            (
                base(&format!("{token}tokn = \"{PLANTED}\"")),
                "tokn is not a key of a claim (did you mean token?)",
            ),
            (base(&format!("{token}{token}")), "line 3: this is not TOML"),
            (
                format!("url = \"{PLANTED}\"\n{token}"),
                "url does not fit; a URL that begins",
            ),
            (
                format!("url = \"https://core.example#token={PLANTED}\"\n{token}"),
                "without query or fragment",
            ),
            (
                format!("url = \"https://u:{PLANTED}@core.example\"\n{token}"),
                "must not carry",
            ),
            (
                format!("url = \"http://core.example\"\nprovider = \"est\"\n{token}"),
                "https:// only",
            ),
            (
                format!("https://core.example#token={PLANTED}"),
                "line 1: this is not TOML",
            ),
            (String::new(), "url is missing"),
            ("x".repeat(70_000), "64 KiB"),
        ];
        for (text, named) in cases {
            let error = refused(&text);
            assert!(error.contains(named), "{error}\n{named}");
        }
    }

    #[test]
    fn cut_off_anywhere_it_is_refused_or_whole_and_never_shown() {
        let text = whole();
        let needed = text.find("kind").unwrap();
        for length in 0..needed - 4 {
            if let Err(error) = claim(&text[..length]) {
                let error = error.to_string();
                assert!(!error.contains(&PLANTED[..6]), "{error}");
            } else {
                // All that is needed was there; what was cut off is the comment.
                assert!(text[..length].contains(&format!("\"{PLANTED}\"")));
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("claim.toml");
        std::fs::write(&path, [0xff, 0xfe, 0, 1]).unwrap();
        assert!(Bootstrap::from_claim(&path).is_err());
        assert!(Bootstrap::from_claim(&dir.path().join("none")).is_err());
    }
}
