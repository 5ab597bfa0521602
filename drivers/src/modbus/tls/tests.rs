use std::fs;

use millrace_tags::{SystemClock, TagId, Value};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::modbus::{DataType, Point, PointSpec, TcpDriver, TcpSettings, WordOrder};
use crate::{Driver, Session};

/// An authority, and a certificate of it with a role for each side.
struct Pki {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { dir, issuer }
    }

    fn issue(&self, name: &str, role: Option<&str>) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        if let Some(role) = role {
            let mut utf8_string = vec![0x0C, role.len() as u8];
            utf8_string.extend_from_slice(role.as_bytes());
            let oid = [1, 3, 6, 1, 4, 1, 50316, 802, 1];
            let extension = CustomExtension::from_oid_content(&oid, utf8_string);
            params.custom_extensions.push(extension);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(name, "pem"), certificate.pem()).unwrap();
        fs::write(self.path(name, "key"), key.serialize_pem()).unwrap();
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.dir.path().join(name).with_extension(extension)
    }

    /// A server that asks for a certificate and answers every read of one register with 7.
    async fn serve(&self) -> u16 {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        for authority in certificates(&self.path("ca", "pem")).unwrap() {
            roots.add(authority).unwrap();
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                certificates(&self.path("server", "pem")).unwrap(),
                PrivateKeyDer::from_pem_file(self.path("server", "key")).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut request = [0; 12];
                while stream.read_exact(&mut request).await.is_ok() {
                    let [t0, t1, ..] = request;
                    let reply = [t0, t1, 0, 0, 0, 5, request[6], 3, 2, 0, 7];
                    stream.write_all(&reply).await.unwrap();
                }
            }
        });
        port
    }

    fn driver(&self, port: u16, ours: &str) -> TcpDriver {
        let mut settings = TcpSettings::new("meter", format!("127.0.0.1:{port}"));
        settings.timeout = std::time::Duration::from_secs(30);
        settings.tls = Some(TlsSettings {
            ca_file: self.path("ca", "pem"),
            cert_file: self.path(ours, "pem"),
            key_file: self.path(ours, "key"),
            server_name: Some("localhost".to_owned()),
        });
        let address = "holding:0".parse().unwrap();
        let point = Point {
            tag: TagId(1),
            spec: PointSpec::new(address, DataType::U16, WordOrder::Abcd).unwrap(),
            meaning: Default::default(),
            interval: std::time::Duration::from_secs(1),
        };
        TcpDriver::new(settings, vec![point], Arc::new(SystemClock::new()))
    }
}

async fn read(session: &mut dyn Session) -> Option<Value> {
    session.read(0).await.unwrap().samples[0].value.clone()
}

#[tokio::test]
async fn both_sides_show_their_certificate_and_role() {
    let pki = Pki::new();
    pki.issue("server", None);
    pki.issue("client", Some("operator"));
    let port = pki.serve().await;
    let mut session = pki.driver(port, "client").open().await.unwrap();
    assert_eq!(read(session.as_mut()).await, Some(Value::U64(7)));
    assert_eq!(
        session.remarks(),
        [
            "our certificate has the role \"operator\"",
            "the server's certificate has no role"
        ]
    );
}

#[tokio::test]
async fn certificate_of_somebody_else_is_refused_for_good() {
    let pki = Pki::new();
    pki.issue("server", Some("server"));
    let port = pki.serve().await;
    let stranger = Pki::new();
    stranger.issue("client", None);
    let mut driver = pki.driver(port, "server");
    driver.trust(stranger.path("ca", "pem"));
    let error = driver.open().await.map(drop).unwrap_err();
    assert!(error.is_refusal(), "{error}");
    let missing = pki.driver(port, "nobody").open().await.map(drop);
    assert!(missing.unwrap_err().to_string().contains("nobody.pem"));
}
