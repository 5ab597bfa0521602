//! How an uplink's bytes travel: the version of MQTT, further endpoints, a proxy, the broker's key.

use millrace_uplink::profile::{Profile, Sequence};
use millrace_uplink::{
    Endpoint, EndpointError, Pin, Protocol, ProtocolChoice, Proxy, ProxyAddress,
};

use crate::config::complaint::Complaint;
use crate::config::keys::{KeyDoc, Kind};
use crate::config::section::Section;

pub(super) const PROTOCOL: KeyDoc = KeyDoc::new(
    "protocol",
    Kind::Choice(&["auto", "5", "3.1.1"]),
    "The version of MQTT. `auto` speaks 5, and 3.1.1 with a broker that refuses 5 or hangs up on it.",
)
.means("what the profile says, else `auto`");

pub(super) const FALLBACK_URLS: KeyDoc = KeyDoc::new(
    "fallback_urls",
    Kind::Texts,
    "Where else the broker is: tried in this order while `url` does not take the connection. `url` is asked again \
     every half minute at first and ever more rarely up to an hour, and gets the connection back. With TLS, all of \
     them must have it.",
);
pub(super) const PROXY: KeyDoc = KeyDoc::new(
    "proxy",
    Kind::Form("a URL such as http://proxy.example:3128"),
    "The way out: `http://host:port` (`CONNECT`, port 3128 where none is written) or `socks5://host:port` (1080). The \
     proxy looks the broker's name up; TLS goes through it to the broker.",
);
pub(in crate::config) const PROXY_USERNAME: KeyDoc = KeyDoc::new(
    "proxy_username",
    Kind::Text,
    "The user to log in as at the proxy.",
);
pub(in crate::config) const PROXY_PASSWORD_FILE: KeyDoc = KeyDoc::new(
    "proxy_password_file",
    Kind::Secret,
    "The file that holds the password for the proxy.",
);
pub(super) const PIN_SHA256: KeyDoc = KeyDoc::new(
    "pin_sha256",
    Kind::Texts,
    "The SHA-256 of the broker's public key (SPKI), hexadecimal or base64; several while it is being changed. Without \
     ca_file the key is all that is asked of the broker, with it both must hold. \
     `openssl x509 -in broker.pem -noout -pubkey | openssl pkey -pubin -outform der | sha256sum` prints it.",
);

/// Everything between the session and the broker's port.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    /// The version of MQTT.
    pub(crate) protocol: ProtocolChoice,
    /// Where else the broker is.
    pub(crate) fallbacks: Vec<Endpoint>,
    /// The way out.
    pub(crate) proxy: Option<Proxy>,
}

pub(super) fn read(
    section: &Section<'_>,
    profile: Option<&Profile>,
    first: Option<&Endpoint>,
) -> Option<Wire> {
    let protocol = read_protocol(section, profile);
    let fallbacks = read_fallbacks(section, first);
    let proxy = read_proxy(section);
    Some(Wire {
        protocol: protocol?,
        fallbacks: fallbacks?,
        proxy: proxy?,
    })
}

fn read_fallbacks(section: &Section<'_>, first: Option<&Endpoint>) -> Option<Vec<Endpoint>> {
    if !section.has("fallback_urls") {
        return Some(Vec::new());
    }
    let mut endpoints = Vec::new();
    for (text, _) in section.texts("fallback_urls")? {
        let endpoint = match super::endpoint(&text) {
            Ok(endpoint) => endpoint,
            Err(complaint) => {
                section.complain("fallback_urls", complaint);
                return None;
            }
        };
        let differs = first.is_some_and(|first| first.scheme.is_tls() != endpoint.scheme.is_tls());
        if differs {
            let complaint = Complaint::new(format!(
                "{endpoint} and url must both have TLS, or both none: nobody should learn the password by \
                 shutting the first one out"
            ));
            section.complain("fallback_urls", complaint);
            return None;
        }
        endpoints.push(endpoint);
    }
    Some(endpoints)
}

/// The keys `proxy`, `proxy_username` and `proxy_password_file`. Outer `None`: a problem, already reported.
pub(in crate::config) fn read_proxy(section: &Section<'_>) -> Option<Option<Proxy>> {
    if !section.has("proxy") {
        for key in ["proxy_username", "proxy_password_file"] {
            if section.has(key) {
                section.complain(key, Complaint::new("there is no proxy to log in at"));
                return None;
            }
        }
        return Some(None);
    }
    let address = section.form("proxy", |text| {
        if text.contains('@') {
            // Before anything else, since other errors show the URL.
            return Err(Complaint::said(&EndpointError::ProxyCredentials)
                .hint("remove what stands before the @"));
        }
        text.parse::<ProxyAddress>()
            .map_err(|error| Complaint::said(&error).hint("for example http://proxy.example:3128"))
    });
    let password = match section.has("proxy_password_file") {
        true => Some(section.secret("proxy_password_file")?),
        false => None,
    };
    let username = section.text("proxy_username").map(str::to_owned);
    if password.is_some() && username.is_none() {
        let complaint = Complaint::new("a password for the proxy needs a user name");
        section.complain("proxy_username", complaint);
        return None;
    }
    Some(Some(Proxy {
        address: address?,
        username,
        password,
    }))
}

pub(super) fn read_pins(section: &Section<'_>) -> Option<Vec<Pin>> {
    if !section.has("pin_sha256") {
        return Some(Vec::new());
    }
    let mut pins = Vec::new();
    for (text, _) in section.texts("pin_sha256")? {
        match text.parse::<Pin>() {
            Ok(pin) => pins.push(pin),
            Err(error) => {
                section.complain("pin_sha256", Complaint::said(&error));
                return None;
            }
        }
    }
    Some(pins)
}

/// The version to speak; a profile that needs the properties of MQTT 5 gets no other.
fn read_protocol(section: &Section<'_>, profile: Option<&Profile>) -> Option<ProtocolChoice> {
    let definition = profile?.definition();
    let needs_v5 = definition.sequence == Sequence::Property;
    if !section.has("protocol") {
        return Some(match needs_v5 {
            true => ProtocolChoice::Only(Protocol::V5),
            false => definition.protocol,
        });
    }
    let word = section.choice("protocol")?;
    let mut words = ProtocolChoice::WORDS.iter();
    let choice = words.find(|(known, _)| *known == word)?.1;
    match choice {
        ProtocolChoice::Only(Protocol::V311) if needs_v5 => {
            let complaint = Complaint::new(format!(
                "the profile {} sends numbers in properties, which only MQTT 5 has",
                definition.name
            ));
            section.complain("protocol", complaint.hint("write \"5\", or remove it"));
            None
        }
        ProtocolChoice::Auto if needs_v5 => Some(ProtocolChoice::Only(Protocol::V5)),
        choice => Some(choice),
    }
}
