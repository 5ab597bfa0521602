//! Every policy and mode with every login, against both foreign servers: connect, read, subscribe.

use millrace_drivers::Driver;
use millrace_drivers::opcua::{Auth, Mode, Policy, Security, read_once};
use millrace_tags::{Quality, Value};

use crate::peer::{Make, PASSWORD, Peer, driver, node};
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
    session.close().await;
}

async fn every_field(make: Make) {
    let Some(peer) = Peer::start(make) else {
        return;
    };
    for security in securities() {
        for auth in [Auth::Anonymous, peer.password(PASSWORD)] {
            serves(&peer, security, auth).await;
        }
        let mut settings = peer.settings(security);
        settings.auth = peer.password("wrong horse");
        let refused = read_once(settings, &node("Fixed")).await;
        let error = refused.expect_err("a wrong password");
        assert!(error.is_refusal(), "{security:?}: {error:?}");
    }
}

#[tokio::test]
async fn asyncua_serves_every_policy_and_login() {
    every_field(Make::Asyncua).await;
}

#[tokio::test]
async fn node_opcua_serves_every_policy_and_login() {
    every_field(Make::NodeOpcua).await;
}
