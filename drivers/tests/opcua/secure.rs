//! Trust, policies and logins.

use millrace_drivers::opcua::{Auth, Mode, NodeAddress, Policy, Security, inspect, pin, read_once};
use millrace_drivers::sim::opcua::{NAMESPACE_URI, SimOpcua};
use millrace_drivers::{Driver, Session, SessionError};
use millrace_tags::{Quality, Value};
use tempfile::TempDir;

use crate::session::{PATIENCE, collect};
use crate::simulated::{driver, settings, sim, sim_settings};

fn refused(result: Result<Box<dyn Session>, SessionError>) -> String {
    match result {
        Err(error) if error.is_refusal() => error.to_string(),
        Err(error) => panic!("not a refusal: {error:?}"),
        Ok(_) => panic!("the session was opened"),
    }
}

/// Makes no password public in a file name or an argument.
fn password(dir: &TempDir, text: &str) -> Auth {
    let password_file = dir.path().join("password");
    std::fs::write(&password_file, text).expect("password file");
    Auth::UserName {
        user: "gateway".to_owned(),
        password_file,
    }
}

#[tokio::test]
async fn an_untrusted_server_is_refused_until_it_is_pinned() {
    let (server_pki, pki) = (
        tempfile::tempdir().expect("pki"),
        tempfile::tempdir().expect("pki"),
    );
    let mut sim_settings = sim_settings();
    sim_settings.pki_dir = Some(server_pki.path().to_owned());
    let sim = SimOpcua::start(sim_settings).await.expect("server");
    let mut settings = settings(&sim, pki.path());
    settings.security = Security::BestOffered;
    let driver = driver(settings.clone(), &["Fixed"]);

    let endpoints = inspect(&sim.url(), PATIENCE).await.expect("endpoints");
    assert_eq!(endpoints.len(), 7);
    let secured = endpoints
        .iter()
        .find(|e| e.policy == "Basic256Sha256")
        .expect("secured");
    let thumbprint = secured.thumbprint.clone().expect("thumbprint");

    let said = refused(driver.open().await);
    assert!(said.contains(&thumbprint), "{said}");
    assert!(
        said.contains("millrace trust opc.tcp://127.0.0.1"),
        "{said}"
    );

    let der = secured.certificate.clone().expect("certificate");
    assert_eq!(pin(pki.path(), &der).expect("pinned"), thumbprint);
    let mut session = driver.open().await.expect("session");
    assert_eq!(
        collect(&mut session, 1).await[0].value,
        Some(Value::F32(4.5))
    );
    let remarks = session.remarks();
    assert_eq!(remarks, ["security Aes256Sha256RsaPss sign-and-encrypt"]);
    session.close().await;

    for policy in [
        Policy::Basic256Sha256,
        Policy::Aes128Sha256RsaOaep,
        Policy::Aes256Sha256RsaPss,
    ] {
        for mode in [Mode::Sign, Mode::SignAndEncrypt] {
            settings.security = Security::Policy { policy, mode };
            let node = NodeAddress::named(NAMESPACE_URI, "Fixed");
            let (value, quality, _) = read_once(settings.clone(), &node).await.expect("read");
            assert_eq!((value, quality), (Some(Value::F32(4.5)), Quality::Good));
        }
    }

    let other = tempfile::tempdir().expect("pki");
    let file = other.path().join("server.der");
    std::fs::write(&file, der).expect("certificate file");
    settings.pki_dir = other.path().to_owned();
    settings.server_cert_file = Some(file);
    let node = NodeAddress::named(NAMESPACE_URI, "Fixed");
    assert!(
        read_once(settings, &node).await.is_ok(),
        "pinned by configuration"
    );
}

#[tokio::test]
async fn user_names_are_let_in_by_their_password() {
    let (server_pki, pki) = (
        tempfile::tempdir().expect("pki"),
        tempfile::tempdir().expect("pki"),
    );
    let mut sim_settings = sim_settings();
    sim_settings.pki_dir = Some(server_pki.path().to_owned());
    sim_settings.user = Some(("gateway".to_owned(), "correct horse".to_owned()));
    let sim = SimOpcua::start(sim_settings).await.expect("server");
    for endpoint in inspect(&sim.url(), PATIENCE).await.expect("endpoints") {
        if let Some(der) = endpoint.certificate {
            pin(pki.path(), &der).expect("pinned");
        }
    }
    for security in [Security::None, Security::BestOffered] {
        let mut settings = settings(&sim, pki.path());
        settings.security = security;
        settings.auth = password(&pki, "correct horse\n");
        let mut session = driver(settings.clone(), &["Fixed"])
            .open()
            .await
            .expect("session");
        collect(&mut session, 1).await;
        let unprotected = session
            .remarks()
            .iter()
            .any(|r| r.contains("nothing protects"));
        assert_eq!(unprotected, security == Security::None);
        session.close().await;

        settings.auth = password(&pki, "wrong horse");
        let said = refused(driver(settings.clone(), &["Fixed"]).open().await);
        assert!(said.contains("password_file"), "{said}");
        assert!(!said.contains("wrong horse"), "{said}");

        settings.auth = Auth::UserName {
            user: "gateway".to_owned(),
            password_file: pki.path().join("missing"),
        };
        let said = refused(driver(settings, &["Fixed"]).open().await);
        assert!(said.contains("missing"), "{said}");
    }
}

#[tokio::test]
async fn a_security_that_is_not_offered_is_refused_with_what_is() {
    let (sim, pki) = (sim().await, tempfile::tempdir().expect("pki"));
    let mut settings = settings(&sim, pki.path());
    settings.security = Security::BestOffered;
    let said = refused(driver(settings, &["Fixed"]).open().await);
    assert!(said.contains("it offers None"), "{said}");
}
