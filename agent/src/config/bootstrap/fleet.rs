//! Keys of `provider = "aws-claim"`.

use millrace_uplink::bootstrap::Fleet;

use super::{optional, read_table};
use crate::config::complaint::Complaint;
use crate::config::files::FileUse;
use crate::config::keys::{KeyDoc, Kind};
use crate::config::section::Section;

pub(super) const TEMPLATE: KeyDoc = KeyDoc::new(
    "template",
    Kind::Text,
    "Only with aws-claim: the provisioning template.",
);
pub(super) const CERT_FILE: KeyDoc = KeyDoc::new(
    "cert_file",
    Kind::File,
    "Only with aws-claim: PEM file of the claim certificate, in place of external_key_file.",
);
pub(super) const KEY_FILE: KeyDoc = KeyDoc::new(
    "key_file",
    Kind::File,
    "Only with aws-claim: PEM file of the claim certificate's key.",
);
pub(super) const PARAMETERS: KeyDoc = KeyDoc::new(
    "parameters",
    Kind::Form("a table such as { Site = \"north\" }"),
    "Only with aws-claim: parameters of the template beside `SerialNumber`, which is the external id.",
);

/// Outer `None`: something is written and has a problem, which is reported.
pub(super) fn read(section: &Section<'_>) -> Option<Option<Fleet>> {
    let file = |key, used| optional(section, key, || section.file(key, used));
    let cert = file("cert_file", FileUse::Certificate);
    let key = file("key_file", FileUse::Secret);
    let template = optional(section, "template", || section.form("template", template));
    let parameters = read_table(section, "parameters", "a table of texts is expected");
    let (cert, key, template, parameters) = (cert?, key?, template?, parameters?);
    Some(match (cert, key, template) {
        (Some(cert), Some(key), Some(template)) => Some(Fleet {
            claim: (cert, key),
            template,
            parameters,
        }),
        _ => None,
    })
}

/// The name goes into a topic.
fn template(text: &str) -> Result<String, Complaint> {
    let named = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    match !text.is_empty() && text.chars().all(named) {
        true => Ok(text.to_owned()),
        false => Err(Complaint::new("letters, digits, _ and - are expected")),
    }
}
