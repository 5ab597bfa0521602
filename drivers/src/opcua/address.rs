//! Where a tag's value is in an OPC UA server: namespace and identifier, or the way to it; all of it, or a part.

use std::fmt;
use std::str::FromStr;

use opcua::types::{BrowsePath, ByteString, Guid, Identifier, NodeId, NumericRange, UAString};

use super::path::Path;
use super::range::IndexRange;

/// The address of a node. The namespace is best given by its URI, which a server keeps over a restart;
/// an index may come to mean another namespace then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeAddress {
    namespace: Namespace,
    target: Target,
    range: Option<IndexRange>,
}

/// How the node is named in its namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Target {
    Node(Identifier),
    Path(Path),
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
    /// The part of an array is no range.
    #[error("node address \"{text}\" has index range \"{found}\", which is no range")]
    Range {
        /// The whole address.
        text: String,
        /// What stands after `index=`.
        found: String,
    },
    /// The path has an empty name.
    #[error("node address \"{0}\" has a path with an empty name")]
    Path(String),
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
            NodeAddressError::Range { .. } => {
                "write index=3;nsu=…;s=Name for one element, index=2:5;… for a part, index=1:2,0:1;… of a matrix"
            }
            NodeAddressError::Path(_) => {
                "the browse names from the Objects folder on, for example nsu=http://vendor.example/plant;path=Plant/Pump/Flow; \
                 a name of another namespace is 2:Name, and / in a name is &/"
            }
            NodeAddressError::Identifier { .. } => {
                "i= takes a number up to 4294967295, g= a GUID such as 72962B91-FA75-4AE6-8D28-B404DC7DAF63, b= base64"
            }
        }
    }
}

/// `index=` comes first, then `ns=` or `nsu=`, and only the first `;` ends it: identifiers may hold further ones.
impl FromStr for NodeAddress {
    type Err = NodeAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (range, rest) = match text.strip_prefix("index=") {
            Some(rest) => {
                let (range, rest) = rest
                    .split_once(';')
                    .ok_or_else(|| NodeAddressError::MissingIdentifier(text.to_owned()))?;
                let parsed = IndexRange::parse(range).ok_or_else(|| NodeAddressError::Range {
                    text: text.to_owned(),
                    found: range.to_owned(),
                })?;
                (Some(parsed), rest)
            }
            None => (None, text),
        };
        let (namespace, identifier) = match namespace_part(rest) {
            Some(rest) => rest
                .split_once(';')
                .ok_or_else(|| NodeAddressError::MissingIdentifier(text.to_owned()))?,
            None => ("", rest),
        };
        let target = match identifier.strip_prefix("path=") {
            Some(path) => {
                Target::Path(Path::parse(path).ok_or(NodeAddressError::Path(text.to_owned()))?)
            }
            None => Target::Node(parse_identifier(text, identifier)?),
        };
        Ok(Self {
            namespace: parse_namespace(text, namespace)?,
            target,
            range,
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
        if let Some(range) = &self.range {
            write!(f, "index={range};")?;
        }
        match &self.namespace {
            Namespace::Index(0) => {}
            Namespace::Index(index) => write!(f, "ns={index};")?,
            Namespace::Uri(uri) => {
                write!(f, "nsu={};", uri.replace('%', "%25").replace(';', "%3B"))?;
            }
        }
        match &self.target {
            Target::Path(path) => write!(f, "path={path}"),
            Target::Node(Identifier::Numeric(number)) => write!(f, "i={number}"),
            Target::Node(Identifier::String(name)) => write!(f, "s={name}"),
            Target::Node(Identifier::Guid(guid)) => write!(f, "g={guid}"),
            Target::Node(Identifier::ByteString(bytes)) => write!(f, "b={}", bytes.as_base64()),
        }
    }
}

impl NodeAddress {
    /// A node of a namespace by URI, named by text.
    pub fn named(namespace_uri: &str, name: &str) -> Self {
        Self {
            namespace: Namespace::Uri(namespace_uri.to_owned()),
            target: Target::Node(Identifier::String(UAString::from(name))),
            range: None,
        }
    }

    /// Whether the address must be looked up in the server's namespace table.
    pub(super) fn needs_namespaces(&self) -> bool {
        matches!(self.namespace, Namespace::Uri(_))
    }

    fn index(&self, namespaces: &[String]) -> Option<u16> {
        match &self.namespace {
            Namespace::Index(index) => Some(*index),
            Namespace::Uri(uri) => {
                u16::try_from(namespaces.iter().position(|known| known == uri)?).ok()
            }
        }
    }

    /// The node in a server whose namespace table is `namespaces`; `None` where it lacks the URI, or where only a
    /// path leads to the node.
    pub(super) fn resolve(&self, namespaces: &[String]) -> Option<NodeId> {
        match &self.target {
            Target::Node(identifier) => Some(NodeId {
                namespace: self.index(namespaces)?,
                identifier: identifier.clone(),
            }),
            Target::Path(_) => None,
        }
    }

    /// The way to the node, where it is given by one and the server has its namespace.
    pub(super) fn browse_path(&self, namespaces: &[String]) -> Option<BrowsePath> {
        match &self.target {
            Target::Path(path) => Some(path.browse_path(self.index(namespaces)?)),
            Target::Node(_) => None,
        }
    }

    /// The part of the value that is meant.
    pub(super) fn range(&self) -> Option<&IndexRange> {
        self.range.as_ref()
    }

    /// The part of the value that is meant, as a request says it.
    pub(super) fn numeric_range(&self) -> NumericRange {
        self.range
            .as_ref()
            .map_or(NumericRange::None, IndexRange::numeric)
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
            "index=3;ns=2;s=Temperatures",
            "index=2:5;nsu=urn:plant;s=Temperatures",
            "index=1:2,0:1;i=17",
            "nsu=urn:plant;path=Plant/Pump 7/Flow",
            "ns=2;path=Plant/0:Server&/x/3:Flow&:raw",
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
            ("index=5:2;i=1", "no range"),
            ("index=x;i=1", "no range"),
            ("index=1", "no identifier"),
            ("ns=2;path=", "empty name"),
            ("ns=2;path=a//b", "empty name"),
        ] {
            let error = text.parse::<NodeAddress>().expect_err(text);
            assert!(error.to_string().contains(said), "{text}: {error}");
            assert!(!error.hint().is_empty());
        }
    }
}
