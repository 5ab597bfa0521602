use std::time::Duration;

use millrace_drivers::opcua::{EndpointReport, Finding, OwnReport};

use super::*;

fn endpoint(policy: &str, mode: &str) -> EndpointReport {
    EndpointReport {
        url: "opc.tcp://tank-farm:4840".into(),
        policy: policy.into(),
        mode: mode.into(),
        spoken: policy != "Basic128Rsa15",
        user_tokens: vec!["anonymous".into(), "user-name".into()],
        security_level: 1,
        application_uri: "urn:tank-farm".into(),
        thumbprint: Some("AB12".into()),
        subject: Some("CN=tank-farm".into()),
        validity: Some(("2026-01-01T00:00:00Z".into(), "2036-01-01T00:00:00Z".into())),
        certificate: None,
    }
}

fn certificate(thumbprint: &str) -> CertificateReport {
    CertificateReport {
        thumbprint: thumbprint.into(),
        sha256: format!("{thumbprint}{thumbprint}"),
        subject: "CN=tank-farm".into(),
        issuer: None,
        uris: vec!["urn:tank-farm".into()],
        hosts: vec!["tank-farm".into(), "10.0.0.6".into()],
        validity: ("2026-01-01T00:00:00Z".into(), "2036-01-01T00:00:00Z".into()),
        rsa_bits: Some(2048),
        trusted_by: None,
        faults: Vec::new(),
        remarks: Vec::new(),
        der: thumbprint.as_bytes().to_vec(),
    }
}

fn inspection() -> Inspection {
    let mut shown = certificate("AB12");
    shown.faults.push(Finding {
        cause: "untrusted",
        message: "its certificate with thumbprint AB12 (CN=tank-farm) is not trusted here".into(),
        hint: "compare the thumbprint with the one that the server shows, then pin it".into(),
    });
    shown
        .remarks
        .push("the certificate of CN=tank-farm ends on 2036-01-01T00:00:00Z".into());
    Inspection {
        endpoints: vec![
            endpoint("None", "none"),
            endpoint("Basic256Sha256", "sign-and-encrypt"),
            endpoint("Basic128Rsa15", "sign"),
        ],
        certificates: vec![shown],
        clock_ahead_ms: Some(-7_325_400),
    }
}

#[test]
fn certificate_first_then_what_is_offered() {
    let inspection = inspection();
    let findings = Findings {
        device: Some("press"),
        inspection: &inspection,
    };
    let error = "press refuses the session: its certificate is not trusted here; pin it".to_owned();
    let tried = Tried(Err(error));
    let text = report::server(&findings) + &report::outcome(&tried, None);
    insta::assert_snapshot!(text);
    insta::assert_snapshot!(
        serde_json::to_string_pretty(&report::document(&findings, &tried, None)).unwrap()
    );
}

#[test]
fn a_session_that_opens_is_told_with_its_remarks() {
    let tried = Tried(Ok(vec!["security Basic256Sha256 sign".into()]));
    assert_eq!(
        report::outcome(&tried, Some("AB12")),
        "\npinned AB12: the agent trusts this server now\nA session opens.\n- security Basic256Sha256 sign\n"
    );
}

#[test]
fn own_certificate_is_shown_with_its_file() {
    let own = OwnReport {
        path: "/var/lib/millrace/pki/own/cert.der".into(),
        subject: "CN=millrace@gw-1,O=Millrace".into(),
        application_uri: "urn:gw-1:millrace".into(),
        thumbprint: "CD34".into(),
        sha256: "CD34CD34".into(),
        validity: ("2026-01-01T00:00:00Z".into(), "2036-01-01T00:00:00Z".into()),
    };
    insta::assert_snapshot!(own::render(&own, false) + &own::render(&own, true));
}

fn args(thumbprint: Option<&str>) -> TrustArgs {
    TrustArgs {
        endpoint: Some("opc.tcp://h:1".into()),
        pin: true,
        thumbprint: thumbprint.map(str::to_owned),
        own: false,
        renew: false,
        timeout: Duration::from_secs(1),
    }
}

#[test]
fn one_of_several_certificates_must_be_chosen() {
    let shown = [certificate("AB12"), certificate("CD34")];
    let error = args(None).choose(&shown).unwrap_err();
    assert!(error.to_string().contains("several"), "{error}");
    assert_eq!(
        args(Some("cd:34")).choose(&shown).unwrap().thumbprint,
        "CD34"
    );
    assert_eq!(
        args(Some("ab12ab12")).choose(&shown).unwrap().thumbprint,
        "AB12"
    );
    let error = args(Some("EF")).choose(&shown).unwrap_err();
    assert!(error.to_string().contains("no certificate EF"), "{error}");
    let error = args(None).choose(&[]).unwrap_err();
    assert!(error.to_string().contains("no certificate"), "{error}");
}
