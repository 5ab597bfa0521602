//! Where a tag's value is in an OPC UA server: namespace and identifier.

use std::fmt;
use std::str::FromStr;

use opcua::types::{ByteString, Guid, Identifier, NodeId, UAString};

/// The address of a node. The namespace is best given by its URI, which a server keeps over a restart;
/// an index may come to mean another namespace then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeAddress {
    namespace: Namespace,
    identifier: Identifier,
}

/// How the address names its namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Namespace {
    /// By its place in the server's namespace table, as the server numbers it today.
    Index(u16),
    /// By its URI, looked up in the server's table at each open.
    Uri(String),
}

/// Why a text is no node address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeAddressError {
    /// Nothing is written, or only a namespace.
    #[error("node address \"{0}\" has no identifier")]
    MissingIdentifier(String),
    /// The namespace is neither an index below 65536 nor a URI.
    #[error(
        "node address \"{text}\" has namespace \"{found}\", which is no number from 0 to 65535"
    )]
    Namespace {
        /// The whole address.
        text: String,
        /// What stands after `ns=`.
        found: String,
    },
    /// The namespace URI is empty or has a broken escape.
    #[error("node address \"{0}\" has no readable namespace URI")]
    NamespaceUri(String),
    /// The identifier has a letter other than i, s, g and b, or none.
    #[error("node address \"{text}\" has identifier \"{found}\" of no known kind")]
    IdentifierKind {
        /// The whole address.
        text: String,
        /// The identifier.
        found: String,
    },
    /// The identifier does not fit its letter.
    #[error("node address \"{text}\" has identifier \"{found}\", which is no {expected}")]
    Identifier {
        /// The whole address.
        text: String,
        /// The identifier.
        found: String,
        /// What its letter asks for.
        expected: &'static str,
    },
}

impl NodeAddressError {
    /// What to write instead.
    pub fn hint(&self) -> &'static str {
        match self {
            NodeAddressError::Namespace { .. } | NodeAddressError::NamespaceUri(_) => {
                "write nsu=http://vendor.example/plant;s=Name (the namespace URI, which survives a server restart) \
                 or ns=2;s=Name"
            }
            NodeAddressError::MissingIdentifier(_) | NodeAddressError::IdentifierKind { .. } => {
                "the identifier comes last: i=2258 (number), s=Name (text), g=<GUID> or b=<base64>"
            }
            NodeAddressError::Identifier { .. } => {
                "i= takes a number up to 4294967295, g= a GUID such as 72962B91-FA75-4AE6-8D28-B404DC7DAF63, b= base64"
            }
        }
    }
}

/// `ns=` or `nsu=` is the first part, and only the first `;` ends it: identifiers may hold further ones.
impl FromStr for NodeAddress {
    type Err = NodeAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (namespace, identifier) = match namespace_part(text) {
            Some(rest) => rest
                .split_once(';')
                .ok_or_else(|| NodeAddressError::MissingIdentifier(text.to_owned()))?,
            None => ("", text),
        };
        Ok(Self {
            namespace: parse_namespace(text, namespace)?,
            identifier: parse_identifier(text, identifier)?,
        })
    }
}

fn namespace_part(text: &str) -> Option<&str> {
    (text.starts_with("ns=") || text.starts_with("nsu=")).then_some(text)
}

fn parse_namespace(text: &str, part: &str) -> Result<Namespace, NodeAddressError> {
    if let Some(uri) = part.strip_prefix("nsu=") {
        return match unescape(uri) {
            Some(uri) if !uri.is_empty() => Ok(Namespace::Uri(uri)),
            _ => Err(NodeAddressError::NamespaceUri(text.to_owned())),
        };
    }
    match part.strip_prefix("ns=") {
        None => Ok(Namespace::Index(0)),
        Some(index) => {
            index
                .parse()
                .map(Namespace::Index)
                .map_err(|_| NodeAddressError::Namespace {
                    text: text.to_owned(),
                    found: index.to_owned(),
                })
        }
    }
}

fn parse_identifier(text: &str, part: &str) -> Result<Identifier, NodeAddressError> {
    if part.is_empty() {
        return Err(NodeAddressError::MissingIdentifier(text.to_owned()));
    }
    let unfit = |expected| NodeAddressError::Identifier {
        text: text.to_owned(),
        found: part.to_owned(),
        expected,
    };
    match part.split_once('=') {
        Some(("i", number)) => number
            .parse()
            .map(Identifier::Numeric)
            .map_err(|_| unfit("number from 0 to 4294967295")),
        Some(("s", "")) => Err(unfit("text")),
        Some(("s", name)) => Ok(Identifier::String(UAString::from(name))),
        Some(("g", guid)) => Guid::from_str(guid)
            .map(Identifier::Guid)
            .map_err(|_| unfit("GUID")),
        Some(("b", base64)) => ByteString::from_base64(base64)
            .filter(|bytes| !bytes.is_null_or_empty())
            .map(Identifier::ByteString)
            .ok_or_else(|| unfit("base64")),
        _ => Err(NodeAddressError::IdentifierKind {
            text: text.to_owned(),
            found: part.to_owned(),
        }),
    }
}

/// Part 6, 5.3.1.11: in a namespace URI `;` is written %3B and `%` is written %25.
fn unescape(uri: &str) -> Option<String> {
    let mut plain = String::with_capacity(uri.len());
    let mut rest = uri;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        plain.push(match rest.get(at + 1..at + 3)? {
            "25" => '%',
            "3B" | "3b" => ';',
            _ => return None,
        });
        rest = &rest[at + 3..];
    }
    plain.push_str(rest);
    Some(plain)
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Namespace::Index(0) => {}
            Namespace::Index(index) => write!(f, "ns={index};")?,
            Namespace::Uri(uri) => {
                write!(f, "nsu={};", uri.replace('%', "%25").replace(';', "%3B"))?;
            }
        }
        match &self.identifier {
            Identifier::Numeric(number) => write!(f, "i={number}"),
            Identifier::String(name) => write!(f, "s={name}"),
            Identifier::Guid(guid) => write!(f, "g={guid}"),
            Identifier::ByteString(bytes) => write!(f, "b={}", bytes.as_base64()),
        }
    }
}

impl NodeAddress {
    /// A node of a namespace by URI, named by text.
    pub fn named(namespace_uri: &str, name: &str) -> Self {
        Self {
            namespace: Namespace::Uri(namespace_uri.to_owned()),
            identifier: Identifier::String(UAString::from(name)),
        }
    }

    /// Whether the address must be looked up in the server's namespace table.
    pub(super) fn needs_namespaces(&self) -> bool {
        matches!(self.namespace, Namespace::Uri(_))
    }

    /// The node in a server whose namespace table is `namespaces`; `None` where it lacks the URI.
    pub(super) fn resolve(&self, namespaces: &[String]) -> Option<NodeId> {
        let index = match &self.namespace {
            Namespace::Index(index) => *index,
            Namespace::Uri(uri) => {
                u16::try_from(namespaces.iter().position(|known| known == uri)?).ok()?
            }
        };
        Some(NodeId {
            namespace: index,
            identifier: self.identifier.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> NodeAddress {
        text.parse().expect(text)
    }

    #[test]
    fn every_form_round_trips() {
        for text in [
            "i=2258",
            "ns=2;s=Tank.Level",
            "ns=2;s=a;b=c",
            "ns=3;i=17",
            "nsu=http://vendor.example/plant;s=Pump/Flow",
            "nsu=urn:a%3Bb%25c;i=1",
            "ns=1;g=72962b91-fa75-4ae6-8d28-b404dc7daf63",
            "ns=1;b=AQID",
        ] {
            assert_eq!(parsed(text).to_string(), text);
        }
    }

    #[test]
    fn uri_is_looked_up_and_index_is_not() {
        let table = [
            "http://opcfoundation.org/UA/".to_owned(),
            "urn:plant".to_owned(),
        ];
        let by_uri = parsed("nsu=urn:plant;s=A");
        assert_eq!(by_uri.resolve(&table), Some(NodeId::new(1, "A")));
        assert_eq!(by_uri.resolve(&table[..1]), None);
        assert_eq!(parsed("ns=7;s=A").resolve(&[]), Some(NodeId::new(7, "A")));
        assert_eq!(NodeAddress::named("urn:plant", "A"), by_uri);
    }

    #[test]
    fn bad_addresses_say_what_is_wrong() {
        for (text, said) in [
            ("", "no identifier"),
            ("ns=2", "no identifier"),
            ("ns=2;", "no identifier"),
            ("ns=70000;s=A", "70000"),
            ("nsu=;s=A", "namespace URI"),
            ("nsu=a%zz;s=A", "namespace URI"),
            ("i=-1", "no number"),
            ("s=", "no text"),
            ("g=12", "no GUID"),
            ("ns=1;x=3", "no known kind"),
            ("holding:0", "no known kind"),
        ] {
            let error = text.parse::<NodeAddress>().expect_err(text);
            assert!(error.to_string().contains(said), "{text}: {error}");
            assert!(!error.hint().is_empty());
        }
    }
}
