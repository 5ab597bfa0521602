//! Certificates made by hand, each with its fault.

use std::cell::Cell;
use std::path::Path;
use std::sync::LazyLock;

use millrace_tags::Timestamp;
use opcua::crypto::PrivateKey;
use opcua::types::{ApplicationDescription, ByteString, MessageSecurityMode};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

use super::super::settings::{Security, Tolerance};
use super::super::trust::pin;
use super::*;

const APPLICATION: &str = "urn:plc-7:server";

/// One of a few keys, another than the last time: making one takes long.
fn rsa_key() -> KeyPair {
    static KEYS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let key = |_| {
            let key = PrivateKey::new(2048).expect("key");
            key.to_der().expect("encoded").as_bytes().to_vec()
        };
        (0..4).map(key).collect()
    });
    thread_local!(static NEXT: Cell<usize> = const { Cell::new(0) });
    let at = NEXT.replace((NEXT.get() + 1) % KEYS.len());
    KeyPair::try_from(KEYS[at].as_slice()).expect("a key for rcgen")
}

/// 2026-11-21.
fn now() -> Option<CertificateTime> {
    CertificateTime::from_utc(Timestamp(1_795_219_200_000_000_000))
}

/// What a good server's certificate says.
fn good() -> CertificateParams {
    let mut params = CertificateParams::new(vec!["plc-7".to_owned()]).expect("names");
    params.distinguished_name.push(DnType::CommonName, "press");
    params
        .subject_alt_names
        .push(SanType::URI(APPLICATION.try_into().expect("URI")));
    params
        .subject_alt_names
        .push(SanType::IpAddress([10, 0, 0, 5].into()));
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::DataEncipherment,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2036, 1, 1);
    params.serial_number = Some(SerialNumber::from(4711));
    params
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params
}

/// An authority that signs others.
struct Authority {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn root(name: &str) -> Self {
        let (params, key) = (authority_params(name), rsa_key());
        let der = params.self_signed(&key).expect("signed").der().to_vec();
        let issuer = Issuer::new(params, key);
        Self { der, issuer }
    }

    fn below(&self, name: &str) -> Self {
        let (params, key) = (authority_params(name), rsa_key());
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        let der = signed.der().to_vec();
        let issuer = Issuer::new(params, key);
        Self { der, issuer }
    }

    fn sign(&self, params: &CertificateParams) -> Vec<u8> {
        let signed = params.signed_by(&rsa_key(), &self.issuer).expect("signed");
        signed.der().to_vec()
    }

    fn revoke(&self, serial: u64) -> Vec<u8> {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2026, 3, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 3, 1),
            next_update: date_time_ymd(2026, 6, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("signed").der().to_vec()
    }
}

/// Settings with an empty pki directory.
fn at(host: &str) -> (TempDir, Settings) {
    let dir = tempfile::tempdir().expect("directory");
    let url = format!("opc.tcp://{host}:4840/UA");
    let settings = Settings {
        security: Security::BestOffered,
        ..Settings::new("press", &url, dir.path())
    };
    (dir, settings)
}

fn place(pki: &Path, dir: &str, bytes: &[u8]) {
    let dir = pki.join(dir);
    std::fs::create_dir_all(&dir).expect("directory");
    let count = std::fs::read_dir(&dir).expect("directory").count();
    std::fs::write(dir.join(format!("{count}.der")), bytes).expect("file");
}

fn endpoint(certificate: &[u8]) -> EndpointDescription {
    EndpointDescription {
        security_policy_uri: SecurityPolicy::Basic256Sha256.to_uri().into(),
        security_mode: MessageSecurityMode::SignAndEncrypt,
        server_certificate: ByteString::from(certificate),
        server: ApplicationDescription {
            application_uri: APPLICATION.into(),
            ..ApplicationDescription::default()
        },
        ..EndpointDescription::from("opc.tcp://plc-7:4840/UA")
    }
}

fn judged(settings: &Settings, certificate: &[u8]) -> Judgement {
    judge(settings, &endpoint(certificate), now()).expect("judged")
}

/// The sentence of the only fault.
fn fault(settings: &Settings, certificate: &[u8]) -> (String, String) {
    let found = judged(settings, certificate);
    assert_eq!(found.faults.len(), 1, "{:?}", found.faults);
    let fault = &found.faults[0];
    (fault.to_string(), fault.hint(&settings.url))
}

fn pinned(params: &CertificateParams) -> (TempDir, Settings, Vec<u8>) {
    let der = params
        .self_signed(&rsa_key())
        .expect("signed")
        .der()
        .to_vec();
    let (dir, settings) = at("10.0.0.5");
    pin(&settings.pki_dir, &der).expect("pinned");
    (dir, settings, der)
}

#[test]
fn a_good_certificate_has_no_fault() {
    let (_dir, settings, der) = pinned(&good());
    let found = judged(&settings, &der);
    assert_eq!(found.faults, []);
    assert_eq!(found.remarks, [""; 0]);
    assert_eq!(found.trusted_by.as_deref(), Some("pinned here"));
}

#[test]
fn self_signed_and_not_pinned_is_untrusted() {
    let (_dir, settings, der) = pinned(&good());
    let (_other, empty) = at("10.0.0.5");
    let (message, hint) = fault(&empty, &der);
    let thumbprint = Certificate::from_der(&der)
        .expect("certificate")
        .thumbprint();
    assert_eq!(
        message,
        format!("its certificate with thumbprint {thumbprint} (CN=press) is not trusted here")
    );
    assert!(
        hint.contains("millrace trust opc.tcp://10.0.0.5:4840/UA"),
        "{hint}"
    );
    // Another key: the server that is pinned has got a new certificate.
    let (_third, _, changed) = pinned(&good());
    let (message, _) = fault(&settings, &changed);
    let since = format!("another one of {APPLICATION}, {thumbprint}, is pinned since 20");
    assert!(message.contains(&since), "{message}");
    assert!(message.ends_with("or this is not that server"), "{message}");
    assert_eq!(judged(&settings, b"").faults, [Fault::Missing]);
    assert_eq!(judged(&settings, b"nonsense").faults, [Fault::Missing]);
}

#[test]
fn times_are_judged_by_the_clock_and_not_without_one() {
    let mut params = good();
    params.not_after = date_time_ymd(2026, 10, 1);
    let (_dir, mut settings, der) = pinned(&params);
    let (message, _) = fault(&settings, &der);
    assert_eq!(
        message,
        "the certificate of CN=press was valid until 2026-10-01T00:00:00Z; now it is 2026-11-21T00:00:00Z by the \
         gateway's clock"
    );
    settings.tolerate = vec![Tolerance::Validity];
    let found = judged(&settings, &der);
    assert_eq!(found.faults, []);
    assert!(
        found.remarks[0].ends_with("(tolerated)"),
        "{:?}",
        found.remarks
    );
    settings.tolerate.clear();
    let found = judge(&settings, &endpoint(&der), None).expect("judged");
    assert_eq!(found.faults, []);
    assert!(
        found.remarks[0].contains("clock is not set"),
        "{:?}",
        found.remarks
    );

    params.not_before = date_time_ymd(2027, 1, 1);
    params.not_after = date_time_ymd(2036, 1, 1);
    let (_dir, settings, der) = pinned(&params);
    let (message, hint) = fault(&settings, &der);
    assert!(
        message.contains("is valid from 2027-01-01T00:00:00Z on"),
        "{message}"
    );
    assert!(hint.contains("timedatectl"), "{hint}");

    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2026, 12, 1);
    let (_dir, settings, der) = pinned(&params);
    let found = judged(&settings, &der);
    assert_eq!(found.faults, []);
    assert!(
        found.remarks[0].contains("ends on 2026-12-01"),
        "{:?}",
        found.remarks
    );
}

#[test]
fn application_usage_and_key_are_held_against_the_endpoint() {
    let mut params = good();
    params.subject_alt_names = vec![SanType::URI("urn:old:name".try_into().expect("URI"))];
    let (_dir, settings, der) = pinned(&params);
    assert_eq!(
        fault(&settings, &der).0,
        "its certificate is for the application urn:old:name, but it calls itself urn:plc-7:server"
    );

    let mut params = good();
    params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let (_dir, settings, der) = pinned(&params);
    assert_eq!(
        fault(&settings, &der).0,
        "its certificate may not be used for digital signature and server authentication"
    );

    let key = KeyPair::generate().expect("an elliptic key");
    let der = good().self_signed(&key).expect("signed").der().to_vec();
    let (_dir, settings) = at("10.0.0.5");
    pin(&settings.pki_dir, &der).expect("pinned");
    assert_eq!(
        fault(&settings, &der).0,
        "its certificate has no RSA key, which Basic256Sha256 asks for"
    );
}

#[test]
fn a_small_key_is_refused_by_its_bits() {
    use opcua::crypto::{X509, X509Data};
    let data = X509Data {
        key_size: 1024,
        alt_host_names: X509Data::alt_host_names(APPLICATION, None, false, true, false),
        ..X509Data::sample_cert()
    };
    let (small, _) = X509::cert_and_pkey(&data).expect("made");
    let der = small.to_der().expect("encoded");
    let (_dir, settings) = at("10.0.0.5");
    pin(&settings.pki_dir, &der).expect("pinned");
    let soon = Certificate::from_der(&der).expect("read").not_before();
    let found = judge(&settings, &endpoint(&der), Some(soon)).expect("judged");
    assert_eq!(
        found.faults,
        [Fault::KeySize {
            bits: 1024,
            policy: "Basic256Sha256"
        }]
    );
}

#[test]
fn the_host_has_to_be_right_where_an_authority_vouches_or_where_it_is_asked_for() {
    let root = Authority::root("Plant CA");
    let der = root.sign(&good());
    for (host, is_right) in [("10.0.0.5", true), ("PLC-7", true), ("10.0.0.6", false)] {
        let (_dir, mut settings) = at(host);
        place(&settings.pki_dir, "trusted", &root.der);
        let faults = judged(&settings, &der).faults;
        assert_eq!(faults.is_empty(), is_right, "{host}: {faults:?}");
        settings.check_host = Some(false);
        assert_eq!(judged(&settings, &der).faults, []);

        let (_dir, mut settings) = at(host);
        pin(&settings.pki_dir, &der).expect("pinned");
        assert_eq!(judged(&settings, &der).faults, []);
        settings.check_host = Some(true);
        assert_eq!(
            judged(&settings, &der).faults.is_empty(),
            is_right,
            "{host}"
        );
    }
    let (_dir, settings) = at("10.0.0.6");
    place(&settings.pki_dir, "trusted", &root.der);
    assert_eq!(
        fault(&settings, &der).0,
        "its certificate is for plc-7, 10.0.0.5, not for the host 10.0.0.6"
    );
}

#[test]
fn an_authority_is_followed_up_to_one_that_is_trusted() {
    let root = Authority::root("Company CA");
    let plant = root.below("Plant CA");
    let der = plant.sign(&good());
    let (_dir, settings) = at("10.0.0.5");
    let (message, hint) = fault(&settings, &der);
    assert!(
        message.ends_with("(CN=press) is signed by CN=Plant CA, which is not trusted here"),
        "{message}"
    );
    assert!(hint.contains("pki/trusted/crl"), "{hint}");

    // The link alone is not enough, wherever it comes from.
    place(&settings.pki_dir, "issuers", &plant.der);
    let (message, _) = fault(&settings, &der);
    assert!(
        message.contains("signed by CN=Company CA, which"),
        "{message}"
    );
    place(&settings.pki_dir, "trusted/certs", &root.der);
    let found = judged(&settings, &der);
    assert_eq!(found.faults, []);
    assert_eq!(found.trusted_by.as_deref(), Some("signed by CN=Company CA"));
    assert!(
        found.remarks[0].contains("no revocation list"),
        "{:?}",
        found.remarks
    );

    let (_dir, settings) = at("10.0.0.5");
    place(&settings.pki_dir, "trusted", &root.der);
    let sent = [der.as_slice(), plant.der.as_slice()].concat();
    assert_eq!(
        judged(&settings, &sent).faults,
        [],
        "the server sent the link"
    );
}

#[test]
fn an_authority_of_the_same_name_signs_nothing() {
    let (real, false_one) = (Authority::root("Plant CA"), Authority::root("Plant CA"));
    let der = false_one.sign(&good());
    let (_dir, settings) = at("10.0.0.5");
    place(&settings.pki_dir, "trusted", &real.der);
    assert_eq!(
        judged(&settings, &der).faults,
        [Fault::WrongSignature {
            subject: "CN=press".to_owned(),
            issuer: "CN=Plant CA".to_owned()
        }]
    );
    // A server's certificate is no authority, although its key could sign.
    let (mut params, key) = (good(), rsa_key());
    params
        .distinguished_name
        .push(DnType::CommonName, "Plant CA");
    let server = params.self_signed(&key).expect("signed").der().to_vec();
    let der = good()
        .signed_by(&rsa_key(), &Issuer::new(params, key))
        .expect("signed");
    let (_dir, settings) = at("10.0.0.5");
    place(&settings.pki_dir, "trusted", &server);
    assert!(
        fault(&settings, der.der())
            .0
            .contains("which is not trusted here")
    );
}

#[test]
fn an_authority_keeps_to_the_depth_that_it_was_given() {
    let root = Authority::root("Company CA");
    let (mut params, key) = (authority_params("Plant CA"), rsa_key());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let plant = Authority {
        der: params
            .signed_by(&key, &root.issuer)
            .expect("signed")
            .der()
            .to_vec(),
        issuer: Issuer::new(params, key),
    };
    let (_dir, settings) = at("10.0.0.5");
    place(&settings.pki_dir, "trusted", &root.der);
    place(&settings.pki_dir, "issuers", &plant.der);
    assert_eq!(judged(&settings, &plant.sign(&good())).faults, []);
    let too_deep = plant.below("Line CA");
    place(&settings.pki_dir, "issuers", &too_deep.der);
    let (message, _) = fault(&settings, &too_deep.sign(&good()));
    assert!(
        message.contains("signed by CN=Plant CA, which is not trusted"),
        "{message}"
    );
}

#[test]
fn what_an_authority_took_back_is_refused_even_where_it_is_pinned() {
    let root = Authority::root("Plant CA");
    let der = root.sign(&good());
    let (_dir, settings) = at("10.0.0.5");
    place(&settings.pki_dir, "trusted", &root.der);
    place(&settings.pki_dir, "trusted/crl", &root.revoke(12));
    let found = judged(&settings, &der);
    assert_eq!(found.faults, []);
    assert!(
        found.remarks[0].contains("was to be renewed by 2026-06-01"),
        "{:?}",
        found.remarks
    );

    place(&settings.pki_dir, "issuers/crl", &root.revoke(4711));
    let expected = "CN=Plant CA revoked the certificate of CN=press (serial number 1267) on 2026-03-01T00:00:00Z";
    assert_eq!(fault(&settings, &der).0, expected);
    pin(&settings.pki_dir, &der).expect("pinned");
    assert_eq!(fault(&settings, &der).0, expected);

    // Nobody else can take it back.
    let (_dir, settings) = at("10.0.0.5");
    place(&settings.pki_dir, "trusted", &root.der);
    place(
        &settings.pki_dir,
        "trusted/crl",
        &Authority::root("Plant CA").revoke(4711),
    );
    assert_eq!(judged(&settings, &der).faults, []);
}
