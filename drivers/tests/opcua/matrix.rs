//! Every policy and mode with every login, against both foreign servers: connect, read, subscribe, write.

use std::path::Path;

use millrace_drivers::Driver;
use millrace_drivers::opcua::{Auth, Mode, Policy, Security, read_once};
use millrace_tags::{Quality, Value};
use opcua::crypto::{CertificateStore, X509Data};

use crate::peer::{ENCRYPTED, Make, PASSWORD, Peer, driver, node};
use crate::session::collect;

fn securities() -> Vec<Security> {
    let policies = [
        Policy::Basic256Sha256,
        Policy::Aes128Sha256RsaOaep,
        Policy::Aes256Sha256RsaPss,
    ];
    let secured = policies.into_iter().flat_map(|policy| {
        [Mode::Sign, Mode::SignAndEncrypt].map(|mode| Security::Policy { policy, mode })
    });
    [Security::None].into_iter().chain(secured).collect()
}

/// One field of the matrix.
async fn serves(peer: &Peer, security: Security, auth: Auth) {
    let mut settings = peer.settings(security);
    settings.auth = auth;
    let named = format!("{security:?} {:?}", settings.auth);
    let (value, quality, _) = read_once(settings.clone(), &node("Fixed"))
        .await
        .unwrap_or_else(|error| panic!("{named}: {error}"));
    assert_eq!(
        (value, quality),
        (Some(Value::F32(4.5)), Quality::Good),
        "{named}"
    );
    let mut session = driver(settings, &["Double"])
        .open()
        .await
        .unwrap_or_else(|error| panic!("{named}: {error}"));
    let samples = collect(&mut session, 1).await;
    assert_eq!(samples[0].value, Some(Value::F64(0.1)), "{named}");
    for value in [0.2, 0.1] {
        let written = session.write(samples[0].tag, &Value::F64(value)).await;
        let report = written.unwrap_or_else(|error| panic!("{named}: {error}"));
        assert_eq!(report.read_back, Some(Value::F64(value)), "{named}");
    }
    session.close().await;
}

/// Makes a user's certificate and key in a directory.
fn make_user(dir: &Path, name: &str) {
    let data = X509Data {
        key_size: 2048,
        common_name: name.to_owned(),
        organization: "Millrace test".to_owned(),
        certificate_duration_days: 30,
        ..X509Data::sample_cert()
    };
    let (cert, key) = (
        dir.join(format!("{name}.der")),
        dir.join(format!("{name}.pem")),
    );
    CertificateStore::create_certificate_and_key(&data, true, &cert, &key).expect("user made");
}

fn user(peer: &Peer, cert: &str, key: &str) -> Auth {
    Auth::Certificate {
        cert_file: peer.dir().join(format!("{cert}.der")),
        key_file: peer.dir().join(format!("{key}.pem")),
    }
}

/// A server that knows the user `anna` and not the user `berta`.
fn start(make: Make) -> Option<Peer> {
    Peer::with(make, &[], |dir| {
        for name in ["anna", "berta"] {
            make_user(dir, name);
        }
        let trusted = dir.join("users/trusted/certs");
        std::fs::create_dir_all(&trusted).expect("directory");
        std::fs::copy(dir.join("anna.der"), trusted.join("anna.der")).expect("trusted");
    })
}

async fn every_field(make: Make) {
    let Some(peer) = start(make) else {
        return;
    };
    for security in securities() {
        let by_name = peer.password(PASSWORD);
        for auth in [Auth::Anonymous, by_name, user(&peer, "anna", "anna")] {
            serves(&peer, security, auth).await;
        }
        let said = refusal(&peer, security, peer.password("wrong horse")).await;
        assert!(said.contains("password_file"), "{security:?}: {said}");
    }
}

async fn refusal(peer: &Peer, security: Security, auth: Auth) -> String {
    let mut settings = peer.settings(security);
    settings.auth = auth;
    let refused = read_once(settings, &node("Fixed")).await;
    let error = refused.expect_err("refused");
    assert!(error.is_refusal(), "{security:?}: {error:?}");
    error.to_string()
}

#[tokio::test]
async fn asyncua_serves_every_policy_and_login() {
    every_field(Make::Asyncua).await;
}

#[tokio::test]
async fn node_opcua_serves_every_policy_and_login() {
    every_field(Make::NodeOpcua).await;
}

/// node-opcua verifies the signature that a user's key made, and looks whether it trusts the certificate.
#[tokio::test]
async fn a_user_certificate_is_refused_without_its_key_and_without_trust() {
    let Some(peer) = start(Make::NodeOpcua) else {
        return;
    };
    let said = refusal(&peer, ENCRYPTED, user(&peer, "berta", "berta")).await;
    assert!(said.contains("user_cert_file"), "{said}");
    let said = refusal(&peer, ENCRYPTED, user(&peer, "anna", "berta")).await;
    assert!(said.contains("is not that of the certificate in"), "{said}");
    let said = refusal(&peer, ENCRYPTED, user(&peer, "anna", "missing")).await;
    assert!(said.contains("missing.pem cannot be read"), "{said}");
    let said = refusal(&peer, ENCRYPTED, user(&peer, "missing", "anna")).await;
    assert!(said.contains("cannot read"), "{said}");
}
