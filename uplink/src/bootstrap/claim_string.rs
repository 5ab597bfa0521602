//! All that a first contact needs on one line, for a label, a QR code or a file on a stick:
//! `https://core.example/claim#sha256=<64 hexadecimal digits>&token=<token>`, and `&id=<external id>` where the name
//! is not the machine's own. `sha256` is of the certificate of the CA (DER) that the server's certificate is signed
//! by, and may be left out where the system trusts that CA.

use crate::secret::Secret;

/// A claim string, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimString {
    /// The base URL.
    pub url: String,
    /// SHA-256 of the CA's certificate.
    pub ca_sha256: Option<[u8; 32]>,
    /// The gateway's name.
    pub external_id: Option<String>,
    /// The external key.
    pub token: Secret,
}

/// Why a text is no claim string. The text itself is never shown: it holds the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimStringError {
    /// There is no `#`.
    #[error("it has no `#`; expected https://core.example/claim#sha256=…&token=…")]
    NoFragment,
    /// There is no token.
    #[error("it has no token; expected https://core.example/claim#sha256=…&token=…")]
    NoToken,
    /// The fingerprint is none.
    #[error("its sha256 is none; expected 64 hexadecimal digits")]
    Sha256,
    /// A part that nobody knows, or twice.
    #[error("it has a part that is neither sha256 nor token nor id, or one of them twice")]
    Part,
}

impl ClaimString {
    /// Takes a line apart.
    ///
    /// # Errors
    /// Where a part is missing or wrong.
    pub fn parse(line: &Secret) -> Result<Self, ClaimStringError> {
        let (url, parts) = line
            .expose()
            .trim()
            .split_once('#')
            .ok_or(ClaimStringError::NoFragment)?;
        let (mut ca, mut token, mut id) = (None, None, None);
        for part in parts.split('&') {
            let (name, value) = part.split_once('=').ok_or(ClaimStringError::Part)?;
            let place = match name {
                "sha256" => &mut ca,
                "token" => &mut token,
                "id" => &mut id,
                _ => return Err(ClaimStringError::Part),
            };
            if place.replace(value).is_some() {
                return Err(ClaimStringError::Part);
            }
        }
        let ca_sha256 = ca
            .map(|text| parse_sha256(text).ok_or(ClaimStringError::Sha256))
            .transpose()?;
        let token = token
            .filter(|token| !token.is_empty())
            .ok_or(ClaimStringError::NoToken)?;
        Ok(Self {
            url: url.to_owned(),
            ca_sha256,
            external_id: id.filter(|id| !id.is_empty()).map(str::to_owned),
            token: Secret::new(token),
        })
    }
}

/// 64 hexadecimal digits, with colons between the bytes or without.
pub fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    super::secure::unhex(&text.replace(':', ""))?
        .try_into()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<ClaimString, ClaimStringError> {
        ClaimString::parse(&Secret::new(line))
    }

    #[test]
    fn one_line_says_it_all() {
        let sha = "ab".repeat(32);
        let claim = parse(&format!(
            "https://core.example/claim#sha256={sha}&token=T.0k-en_1\n"
        ))
        .unwrap();
        assert_eq!(claim.url, "https://core.example/claim");
        assert_eq!(claim.ca_sha256, Some([0xab; 32]));
        assert_eq!(claim.external_id, None);
        assert_eq!(claim.token.expose(), "T.0k-en_1");
        let claim = parse("https://core.example#token=t&id=gw-7").unwrap();
        assert_eq!(claim.external_id.as_deref(), Some("gw-7"));
        assert_eq!(claim.ca_sha256, None);
    }

    #[test]
    fn what_is_missing_is_named_without_the_token() {
        for (line, why) in [
            ("https://core.example/claim", ClaimStringError::NoFragment),
            (
                "https://core.example/#sha256=ab&token=s3cret",
                ClaimStringError::Sha256,
            ),
            ("https://core.example/#token=", ClaimStringError::NoToken),
            ("https://core.example/#id=x", ClaimStringError::NoToken),
            (
                "https://core.example/#token=s3cret&token=b",
                ClaimStringError::Part,
            ),
            ("https://core.example/#tokne=s3cret", ClaimStringError::Part),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error, why, "{line}");
            assert!(!error.to_string().contains("s3cret"));
        }
    }
}
