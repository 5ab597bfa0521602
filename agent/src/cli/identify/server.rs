//! Who an OPC UA server says it is: what it offers to anybody, and what it tells who has logged in.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use millrace_drivers::opcua::{EndpointReport, inspect};
use serde_json::{Map, Value, json};

use super::super::opcua::{Login, answer, failed};
use super::super::table::Table;
use super::super::{Global, output};
use crate::report::{OpcuaQuestion, ServerIdentity};

/// Asks the server at `url`, which is named as `server`.
pub(super) async fn ask(
    server: &str,
    url: &str,
    login: &Login,
    timeout: Duration,
    global: &Global,
) -> anyhow::Result<ExitCode> {
    let endpoints = inspect(url, timeout).await;
    let endpoints = endpoints.map_err(|error| failed("the server was not asked", error))?;
    let question = OpcuaQuestion::Identify;
    let identity = answer(server, login, timeout, question, global, |_| {}).await;
    let known = identity.as_ref().ok();
    if global.json {
        output::json(&document(&endpoints, known))?;
    } else {
        output::text(&render(&endpoints, known))?;
    }
    // What anybody may know is shown in any case.
    identity.map(|_| ExitCode::SUCCESS)
}

fn document(endpoints: &[EndpointReport], identity: Option<&ServerIdentity>) -> Value {
    let offered = endpoints.iter().map(|endpoint| {
        json!({
            "url": endpoint.url, "policy": endpoint.policy, "mode": endpoint.mode,
            "user_tokens": endpoint.user_tokens, "application_uri": endpoint.application_uri,
        })
    });
    let mut document = json!({ "endpoints": offered.collect::<Vec<_>>() });
    if let (Some(identity), Some(members)) = (identity, document.as_object_mut()) {
        let named = |rows: &[(String, String)]| -> Map<String, Value> {
            let rows = rows.iter();
            rows.map(|(name, text)| (name.clone(), text.as_str().into()))
                .collect()
        };
        members.insert("about".to_owned(), named(&identity.about).into());
        members.insert("limits".to_owned(), named(&identity.limits).into());
        members.insert("namespaces".to_owned(), json!(identity.namespaces));
        members.insert("profiles".to_owned(), json!(identity.profiles));
    }
    document
}

fn render(endpoints: &[EndpointReport], identity: Option<&ServerIdentity>) -> String {
    let mut text = String::new();
    if let Some(identity) = identity {
        let mut about = Table::new(["SERVER", ""]);
        for (name, value) in &identity.about {
            about.row([name.clone(), printable(value)]);
        }
        text.push_str(&about.render(""));
        text.push('\n');
    }
    let mut offers = Table::new(["POLICY", "MODE", "LOGINS"]);
    for endpoint in endpoints {
        offers.row([
            printable(&endpoint.policy),
            endpoint.mode.clone(),
            endpoint.user_tokens.join(", "),
        ]);
    }
    text.push_str(&offers.render(""));
    let Some(identity) = identity else {
        return text;
    };
    let mut limits = Table::new(["LIMIT", ">"]);
    for (name, value) in &identity.limits {
        let value = if value == "0" { "none" } else { value };
        limits.row([name.clone(), printable(value)]);
    }
    let _ = write!(text, "\n{}", limits.render(""));
    let mut namespaces = Table::new([">NAMESPACE", ""]);
    for (index, uri) in identity.namespaces.iter().enumerate() {
        namespaces.row([index.to_string(), printable(uri)]);
    }
    let _ = write!(text, "\n{}", namespaces.render(""));
    text
}

/// Whatever a server says must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(policy: &str, mode: &str) -> EndpointReport {
        EndpointReport {
            url: "opc.tcp://tank-farm:4840".into(),
            policy: policy.into(),
            mode: mode.into(),
            spoken: true,
            user_tokens: vec!["anonymous".into(), "user-name".into()],
            security_level: 1,
            application_uri: "urn:tank-farm".into(),
            thumbprint: None,
            subject: None,
            validity: None,
            certificate: None,
        }
    }

    #[test]
    fn what_it_is_what_it_offers_what_it_takes() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let identity = ServerIdentity {
            about: vec![
                pair("product", "Tank\u{1b}[2J Farm"),
                pair("state", "Running"),
            ],
            limits: vec![pair("nodes per read", "1000"), pair("sessions", "0")],
            namespaces: vec!["http://opcfoundation.org/UA/".into(), "urn:plant".into()],
            profiles: Vec::new(),
        };
        let endpoints = [
            endpoint("None", "none"),
            endpoint("Basic256Sha256", "sign-and-encrypt"),
        ];
        insta::assert_snapshot!(render(&endpoints, Some(&identity)));
        insta::assert_snapshot!(document(&endpoints, Some(&identity)).to_string());
        let stranger = render(&endpoints, None);
        assert!(stranger.starts_with("POLICY"), "{stranger}");
    }
}
